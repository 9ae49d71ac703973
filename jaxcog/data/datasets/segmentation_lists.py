"""PASCAL-5i and COCO-20i as distributed: lists of images and masks, or COCO's annotations."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from jaxcog.data.mask_episodes import count_pixels, read_list
from jaxcog.data.prepared import Entry, Feature, Listing, Recipe
from jaxcog.data.segmentation import check_pair, decode_label
from jaxcog.data.types import BadRecord
from jaxcog.errors import DataError
from jaxcog.nn.canvas import IGNORE

_LABEL = ((), np.object_)  # encoded bytes
Pair = tuple[str, Path, Path | Callable[[], bytes]]
"""What to call it, its image, its mask (a file, or what makes the encoded bytes)."""


def _entries(recipe: Recipe, pairs: Sequence[Pair], values: int) -> Iterator[Entry]:
    """Records of checked pairs; nothing is read before its turn.

    PASCAL's lists hold segmented images only; COCO's masks are empty where all is a crowd.
    """
    for name, image, mask in pairs:
        where = f"{recipe.name}: {name}"
        try:
            data = mask() if callable(mask) else mask.read_bytes()
            labels = decode_label(data)
            with Image.open(image) as opened:
                size = (opened.height, opened.width)
        except (OSError, BadRecord) as error:
            raise DataError(
                f"{where} cannot be read ({error}): fetch image and mask again"
            ) from error
        check_pair(size, labels.shape, where)
        wrong = np.unique(labels[(labels >= values) & (labels != IGNORE)])
        if wrong.size:
            raise DataError(
                f"{where}: mask values {wrong[:8].tolist()} are no class ids (0..{values - 1}, "
                f"{IGNORE} void): is it the mask of class ids, and not a colour map?"
            )
        pixels = count_pixels(labels, values)
        if recipe is PASCAL5I and not pixels[1:].any():
            raise DataError(
                f"{where}: the mask is empty, no pixel has a class: take the line out of the list, "
                "or fetch the mask again"
            )
        yield Entry(name, {"image": image, "label": data, "pixels": pixels})


def _listing(recipe: Recipe, splits: dict[str, list[Pair]], values: int) -> Listing:
    for split, pairs in splits.items():
        if not pairs:
            raise recipe.expected(f"there is no image of the split {split}")
        absent = [
            str(path)
            for _, image, mask in pairs
            for path in (image, mask)
            if isinstance(path, Path) and not path.is_file()
        ]
        if absent:
            raise recipe.expected(f"{len(absent)} files are missing, such as {absent[0]}")
    entries = {split: _entries(recipe, pairs, values) for split, pairs in splits.items()}
    features: dict[str, Feature] = {
        "image": "image",
        "label": _LABEL,
        "pixels": ((values,), np.int32),
    }
    return Listing(entries, features, {})


def _listed(recipe: Recipe, raw: Path, candidates: Sequence[str]) -> list[Pair]:
    """Pairs of the first list file that exists."""
    path = next((raw / name for name in candidates if (raw / name).is_file()), None)
    if path is None:
        raise recipe.expected(f"{' or '.join(candidates)} is missing")
    return [
        (image.relative_to(raw).as_posix(), image, mask) for image, mask in read_list(path, raw)
    ]


def _read_pascal(raw: Path) -> Listing:
    splits = {
        split: _listed(PASCAL5I, raw, (f"lists/pascal/{split}.txt", f"{split}.txt"))
        for split in ("train", "val")
    }
    return _listing(PASCAL5I, splits, 21)


def _read_coco(raw: Path, whole: bool) -> Listing:
    recipe = COCO20I_FULL if whole else COCO20I
    splits = {}
    for split in ("train", "val"):
        annotations = raw / "annotations" / f"instances_{split}2014.json"
        if whole or (annotations.is_file() and not (raw / split).is_dir()):
            splits[split] = _annotated(recipe, raw, annotations, split, whole)
        else:
            names = (f"{split}_list", split)
            lists = [f"lists/coco/{name}.txt" for name in names] + [f"{n}.txt" for n in names]
            splits[split] = _listed(recipe, raw, lists)
    return _listing(recipe, splits, 81)


def _annotated(recipe: Recipe, raw: Path, path: Path, split: str, whole: bool) -> list[Pair]:
    """Pairs whose masks are painted from COCO's instances; images without any are left out."""
    try:
        body = json.loads(path.read_text())
        categories = sorted(category["id"] for category in body["categories"])
        value = {category: i for i, category in enumerate(categories, 1)}
        instances: dict[int, list[tuple[int, Any]]] = {}
        for item in body["annotations"]:
            if not item["iscrowd"]:
                found = (value[item["category_id"]], item["segmentation"])
                instances.setdefault(item["image_id"], []).append(found)
        shapes = {image["id"]: (image["height"], image["width"], image["file_name"])
                  for image in body["images"]}  # fmt: skip
    except FileNotFoundError:
        raise recipe.expected(f"{path} is missing") from None
    except (json.JSONDecodeError, KeyError, TypeError, OSError) as error:
        raise recipe.expected(f"{path} is no file of COCO instances ({error!r})") from error
    pairs: list[Pair] = []
    for key, (height, width, file) in shapes.items():
        if key in instances:
            paint = functools.partial(painted, instances[key], height, width, whole)
            pairs.append((f"{split}2014/{file}", raw / f"{split}2014" / file, paint))
    return pairs


def painted(
    instances: Sequence[tuple[int, Sequence[Sequence[float]]]],
    height: int,
    width: int,
    whole: bool,
) -> bytes:
    """A PNG of instances (value, polygons) painted over one another in their order.

    whole: all polygons of an instance. Else only its first, as the published protocol's masks.
    Corners are truncated to whole pixels; the outline belongs to the polygon.
    """
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    for value, polygons in instances:
        for polygon in polygons if whole else polygons[:1]:
            corners = [int(x) for x in polygon]
            draw.polygon(corners, fill=value, outline=value)
    buffer = io.BytesIO()
    canvas.save(buffer, "png")
    return buffer.getvalue()


PASCAL5I = Recipe(
    "pascal5i",
    "PASCAL-5i: VOC 2012 with SBD masks, few-shot folds",
    "  JPEGImages/*.jpg\n  SegmentationClassAug/*.png (0 background, 1..20, 255 void)\n"
    "  lists/pascal/{train,val}.txt (lines: JPEGImages/x.jpg SegmentationClassAug/x.png)",
    _read_pascal,
)
COCO20I = Recipe(
    "coco20i",
    "COCO-20i: COCO 2014, few-shot folds, masks of the published protocol",
    "  {train,val}2014/*.jpg and either\n"
    "  {train,val}/*.png (0 background, 1..80) with lists/coco/{train,val}.txt (lines:\n"
    "  val2014/x.jpg val/x.png), or annotations/instances_{train,val}2014.json",
    functools.partial(_read_coco, whole=False),
)
COCO20I_FULL = Recipe(
    "coco20i_full",
    "COCO-20i with whole instance masks",
    "  {train,val}2014/*.jpg\n  annotations/instances_{train,val}2014.json",
    functools.partial(_read_coco, whole=True),
)
RECIPES = (PASCAL5I, COCO20I, COCO20I_FULL)
