"""Person crops on the host: resize, flip, shifted crop, normalise, erase a rectangle.

Sizes and order are those of the person-search papers (TextReID, IRRA): padding is black before
normalisation, and an erased rectangle holds the mean's numbers after it.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from jaxcog.data import images
from jaxcog.data.types import Record

Triple = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Draw:
    """The random part of one training image.

    top, left: of the crop in the padded image. erase: (row, column, height, width), or None.
    """

    flip: bool = False
    top: int = 0
    left: int = 0
    erase: tuple[int, int, int, int] | None = None


@dataclasses.dataclass(frozen=True)
class PersonCrop:
    """uint8 [h, w, 3] to float32 [H, W, 3].

    size: (H, W); the aspect is not kept. pad: pixels on each side before the crop.
    p_flip, p_erase: probabilities. fill: of an erased rectangle, in normalised units; None: the
      three numbers of `mean` (which is not the mean colour there; the papers' code has it so).
    """

    size: tuple[int, int] = (384, 128)
    mean: Triple = images.IMAGENET_MEAN
    std: Triple = images.IMAGENET_STD
    pad: int = 10
    p_flip: float = 0.5
    p_erase: float = 0.5
    fill: float | None = None

    def draw(self, random: np.random.Generator) -> Draw:
        """What happens to one training image."""
        flip = random.random() < self.p_flip
        top, left = random.integers(0, 2 * self.pad + 1, 2)
        erase = erased_rectangle(self.size, random) if random.random() < self.p_erase else None
        return Draw(bool(flip), int(top), int(left), erase)

    def __call__(self, image: np.ndarray, draw: Draw | None = None) -> np.ndarray:
        """The image as the network sees it; without a draw as in evaluation."""
        height, width = self.size
        image = images.resize(image, height, width)
        if draw is not None:
            image = image[:, ::-1] if draw.flip else image
            margin = (self.pad, self.pad)
            image = np.pad(image, (margin, margin, (0, 0)))
            image = images.crop(image, draw.top, draw.left, height, width)
        result = images.normalise(image, self.mean, self.std)
        if draw is not None and draw.erase is not None:
            row, column, h, w = draw.erase
            value = self.mean if self.fill is None else self.fill
            result[row : row + h, column : column + w] = value
        return np.ascontiguousarray(result, np.float32)


def erased_rectangle(
    size: tuple[int, int],
    random: np.random.Generator,
    *,
    scale: tuple[float, float] = (0.02, 0.4),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> tuple[int, int, int, int] | None:
    """(row, column, height, width) of random area and aspect (log-uniform), or None.

    Random erasing (Zhong et al. 2020), with torchvision's rounding and ten tries.
    """
    height, width = size
    for _ in range(10):
        area = height * width * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            row, column = random.integers(height - h + 1), random.integers(width - w + 1)
            return int(row), int(column), h, w
    return None


@dataclasses.dataclass(frozen=True)
class CropTransform:
    """A record's encoded "image" through `crop`; other entries stay. train: with a random draw."""

    crop: PersonCrop
    train: bool

    def __call__(self, record: Record, random: np.random.Generator) -> Record:
        image = images.decode(record["image"])
        draw = self.crop.draw(random) if self.train else None
        return {**record, "image": self.crop(image, draw)}
