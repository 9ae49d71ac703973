"""Pictures as files: PNG, GIF and MP4 bytes, sizes to show them at, contact sheets of galleries."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxcog.show import Gallery, Picture

INK, SOFT, HAIR, PAPER = (28, 32, 38), (100, 108, 118), (222, 222, 217), (255, 255, 255)
BORDERS = {"good": (27, 138, 90), "bad": (204, 61, 61)}

_SHEET_WIDTH = 1480
_MARGIN, _GAP, _FRAME = 36, 16, 4
_ENLARGED_TO = 480


def rgb_image(rgb: np.ndarray, what: str) -> Image.Image:
    """uint8 [H, W, 3] as a Pillow image. Raises ValueError naming `what` for anything else."""
    rgb = np.asarray(rgb)
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ValueError(f"{what}: needs uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
    return Image.fromarray(np.ascontiguousarray(rgb))


def shown_size(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) at which a picture is shown so that its longer side is about `side`.

    Small pictures grow by whole factors, so that each of their pixels stays a square, and never
    beyond what a reader needs to tell the pixels apart.
    """
    longest = max(height, width)
    if longest <= side:
        factor = max(1, min(side, _ENLARGED_TO) // longest)
        return height * factor, width * factor
    return max(1, round(height * side / longest)), max(1, round(width * side / longest))


def side_for(pictures_in_row: int) -> int:
    """The longer side, in CSS pixels, of pictures of which so many stand in a row."""
    steps = ((1, 680), (3, 340), (6, 164), (8, 128))
    return next((side for most, side in steps if pictures_in_row <= most), 96)


def resized(image: Image.Image, height: int, width: int) -> Image.Image:
    """The image at another size: enlarged by repeating pixels, reduced by averaging them."""
    if (image.height, image.width) == (height, width):
        return image
    if height >= image.height:
        return image.resize((width, height), Image.Resampling.NEAREST)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _reduced(image: Image.Image, height: int, width: int) -> Image.Image:
    return resized(image, min(height, image.height), min(width, image.width))


def png_bytes(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def gif_bytes(frames: np.ndarray, frames_per_second: float, side: int, what: str) -> bytes:
    """frames uint8 [T, H, W, 3] as a GIF that repeats, its longer side about `side`.

    Raises ValueError naming `what` if the frames are none, or of another shape or type.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or not len(frames):
        raise ValueError(f"{what}: needs uint8 [T, H, W, 3], got {list(frames.shape)}")
    height, width = shown_size(frames.shape[1], frames.shape[2], side)
    # Colours are chosen before enlarging: fewer pixels to look at, so there is time to refine them.
    images = [
        resized(
            _reduced(rgb_image(frame, what), height, width).quantize(256, kmeans=2), height, width
        )
        for frame in frames
    ]
    # GIF counts in hundredths of a second, and viewers slow down anything below two of them.
    duration = max(2, round(100 / max(frames_per_second, 1e-3))) * 10
    out = io.BytesIO()
    images[0].save(
        out, "GIF", save_all=True, append_images=images[1:], duration=duration, loop=0, disposal=1
    )
    return out.getvalue()


def mp4_bytes(frames: np.ndarray, frames_per_second: float, side: int) -> bytes | None:
    """The same frames as an H.264 film; None without PyAV (the extra `jaxcog[video]`)."""
    try:
        import av
    except ImportError:
        return None
    height, width = shown_size(frames.shape[1], frames.shape[2], side)
    height, width = height + height % 2, width + width % 2  # halved colours need even sides
    out = io.BytesIO()
    rate = Fraction(frames_per_second).limit_denominator(1000)
    with av.open(out, "w", format="mp4") as film:
        stream = film.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in frames:
            picture = resized(Image.fromarray(frame), height, width)
            film.mux(stream.encode(av.VideoFrame.from_image(picture)))
        film.mux(stream.encode())
    return out.getvalue()


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font(size: int) -> Font:
    """The font that comes with Pillow, so that a picture looks the same everywhere."""
    return ImageFont.load_default(size)


def wrapped(text: str, face: Font, width: float, most: int = 3) -> list[str]:
    """The text in at most `most` lines no wider than `width` pixels; an ellipsis ends a cut one."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and face.getlength(joined) <= width:
            lines[-1] = joined
            continue
        while word:
            size = len(word)
            while size > 1 and face.getlength(word[:size]) > width:
                size -= 1
            lines.append(word[:size])
            word = word[size:]
    if len(lines) > most:
        last = lines[most - 1]
        while last and face.getlength(last + "...") > width:
            last = last[:-1]
        lines = [*lines[: most - 1], last + "..."]
    return lines


class Sheet:
    """A page that grows downward: blocks are queued with their heights, then drawn at once."""

    def __init__(self, title: str, note: str, width: int):
        self.width = width
        self.y = _MARGIN
        self._text: list[tuple[int, int, str, int, tuple[int, int, int]]] = []
        self._images: list[tuple[int, int, Image.Image, str | None]] = []
        self.paragraph(title, 28, INK)
        if note:
            self.paragraph(note, 17, SOFT)
        self.y += 14

    def paragraph(self, text: str, size: int, color: tuple[int, int, int]) -> None:
        for line in wrapped(text, font(size), self.width - 2 * _MARGIN, most=6):
            self.text(_MARGIN, line, size, color)
            self.y += round(size * 1.4)

    def text(
        self, x: int, line: str, size: int, color: tuple[int, int, int], down: int = 0
    ) -> None:
        self._text.append((x, self.y + down, line, size, color))

    def image(self, x: int, image: Image.Image, border: str | None = None) -> None:
        self._images.append((x, self.y, image, border))

    def draw(self) -> Image.Image:
        page = Image.new("RGB", (self.width, self.y + _MARGIN - _GAP), PAPER)
        pen = ImageDraw.Draw(page)
        for x, y, image, border in self._images:
            page.paste(image, (x, y))
            if border in BORDERS:
                _mark(pen, x, y, image, border)
        for x, y, line, size, color in self._text:
            pen.text((x, y), line, color, font(size))
        return page


def contact_sheet(gallery: Gallery) -> Image.Image:
    """A gallery as one picture: rows under their labels, captions under the pictures."""
    most = max((len(pictures) for _, pictures in gallery.rows), default=1)
    side = round(side_for(most) * 1.25)
    sizes = [
        shown_size(p.rgb.shape[0], p.rgb.shape[1], side)[1] for _, row in gallery.rows for p in row
    ]
    widest = max(sizes, default=side) + _GAP
    needed = min(most * widest - _GAP, _SHEET_WIDTH) + 2 * _MARGIN
    sheet = Sheet(gallery.title, gallery.note, max(needed, 640))
    if not any(pictures for _, pictures in gallery.rows):
        sheet.paragraph("No pictures.", 17, SOFT)
    for label, pictures in gallery.rows:
        if label:
            sheet.paragraph(label, 17, INK)
            sheet.y += 4
        _add_row(sheet, gallery.title, pictures, side)
        sheet.y += 10
    return sheet.draw()


def _add_row(sheet: Sheet, title: str, pictures: Sequence[Picture], side: int) -> None:
    images = []
    for picture in pictures:
        image = rgb_image(picture.rgb, f'gallery "{title}"')
        images.append(resized(image, *shown_size(image.height, image.width, side)))
    x, tallest = _MARGIN, 0
    face = font(14)
    for picture, image in zip(pictures, images, strict=True):
        if x > _MARGIN and x + image.width > sheet.width - _MARGIN:
            sheet.y += tallest + _GAP
            x, tallest = _MARGIN, 0
        lines = wrapped(picture.caption, face, image.width) if picture.caption else []
        sheet.image(x, image, picture.border)
        for i, line in enumerate(lines):
            sheet.text(x, line, 14, SOFT, down=image.height + _FRAME + 3 + 18 * i)
        tallest = max(tallest, image.height + _FRAME + 3 + 18 * len(lines))
        x += image.width + _GAP
    sheet.y += tallest + _GAP


def _mark(pen: ImageDraw.ImageDraw, x: int, y: int, image: Image.Image, border: str) -> None:
    """A frame, and a tick or a cross: colour alone would not reach everyone."""
    color = BORDERS[border]
    right, bottom = x + image.width, y + image.height
    pen.rectangle((x - 3, y - 3, right + 2, bottom + 2), outline=color, width=_FRAME)
    pen.rectangle((right - 19, y - 3, right + 2, y + 18), fill=color)
    if border == "good":
        pen.line([(right - 14, y + 8), (right - 10, y + 12), (right - 3, y + 4)], PAPER, 3)
    else:
        pen.line([(right - 13, y + 3), (right - 4, y + 12)], PAPER, 3)
        pen.line([(right - 4, y + 3), (right - 13, y + 12)], PAPER, 3)
