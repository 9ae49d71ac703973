"""Figures and whole pages as HTML that needs nothing but itself."""

from __future__ import annotations

import base64
import html
import importlib.resources
import json
import urllib.parse
from collections.abc import Mapping, Sequence

import numpy as np

from jaxcog.reporting import curves, draw, plots, svg
from jaxcog.reporting.axes import format_column, format_number, is_number
from jaxcog.show import (
    Animation,
    Figure,
    File,
    Gallery,
    Histogram,
    Lines,
    Matrix,
    Picture,
    Table,
)

_ANIMATION_SIDE = 320

escape = html.escape


def page(
    title: str,
    subtitle: str,
    sections: Sequence[tuple[str, str]],
    facts: Mapping[str, str] | None = None,
    footer: str = "",
) -> str:
    """A complete HTML document; `sections` are (heading, HTML), `facts` the tiles on top.

    The policy in its head forbids the browser any request, whatever a caption may contain.
    """
    style, script = (_resource(name) for name in ("style.css", "hover.js"))
    links = "".join(
        f'<a href="#part-{i}">{escape(name)}</a>' for i, (name, _) in enumerate(sections)
    )
    tiles = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in (facts or {}).items()
    )
    body = "".join(
        f'<section aria-labelledby="part-{i}">'
        f'<h2 id="part-{i}">{escape(name)}</h2>{inside}</section>'
        for i, (name, inside) in enumerate(sections)
    )
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>'
        f'<style>\n{style}</style></head>\n<body><main class="wrap"><header>'
        f"<h1>{escape(title)}</h1>"
        + (f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else "")
        + (f'<dl class="facts">{tiles}</dl>' if tiles else "")
        + (f'<nav aria-label="Contents">{links}</nav>' if len(sections) > 1 else "")
        + f"</header>\n{body}\n"
        + (f"<footer>{escape(footer)}</footer>" if footer else "")
        + f"</main><script>\n{script}</script></body></html>\n"
    )


def figure_html(figure: Figure) -> str:
    """One figure as a card: title, note, drawing. Raises TypeError for what is no figure."""
    drawing, wide = _drawing(figure)
    head = f"<h3>{escape(figure.title)}</h3>"
    if isinstance(figure, Matrix):
        note = " ".join(filter(None, (figure.note, f"Shade: {plots.shades(figure)[1]}.")))
    else:
        note = figure.note
    if note:
        head += f'<p class="note">{escape(note)}</p>'
    kind = type(figure).__name__.lower()
    full = " full" if wide else ""
    return f'<article class="card {kind}-card{full}"><header>{head}</header>{drawing}</article>'


def figures_html(figures: Sequence[Figure]) -> str:
    """Figures in order, narrow ones side by side where the window allows."""
    return f'<div class="pair">{"".join(figure_html(f) for f in figures)}</div>'


def links_html(pages: Sequence[tuple[str, str]]) -> str:
    """(text, address) of each page, as a line of links."""
    links = (f'<a href="{escape(address)}">{escape(text)}</a>' for text, address in pages)
    return f'<p class="note">{" · ".join(links)}</p>'


def table_html(table: Table) -> str:
    """A table with header scopes; columns of numbers are aligned to the right."""
    numeric = numeric_columns(table)
    kinds = [' class="number"' if is_number else "" for is_number in numeric]
    head = "".join(
        f'<th scope="col"{kind}>{escape(str(name))}</th>'
        for name, kind in zip(table.header, kinds, strict=True)
    )
    body = []
    for texts in cell_texts(table):
        cells = [
            f'<th scope="row">{escape(text)}</th>'
            if j == 0 and not numeric[0]
            else f"<td{kinds[j]}>{escape(text)}</td>"
            for j, text in enumerate(texts)
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return _scroll(
        table.title,
        f'<table class="data"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>',
    )


def cell_texts(table: Table) -> list[list[str]]:
    """The rows as text, a column's numbers alike. ValueError for a row of another length."""
    columns = [format_column(column) for column in _columns(table)]
    return [list(row) for row in zip(*columns, strict=True)]


def numeric_columns(table: Table) -> list[bool]:
    """Whether each column holds numbers alone. ValueError for a row of another length."""
    return [bool(column) and all(map(is_number, column)) for column in _columns(table)]


def _columns(table: Table) -> list[list[object]]:
    for row in table.rows:
        if len(row) != len(table.header):
            raise ValueError(
                f'table "{table.title}": {len(table.header)} columns, a row of {len(row)}: {row}'
            )
    return [[row[j] for row in table.rows] for j in range(len(table.header))]


def curves_html(metrics: curves.Metrics) -> str:
    """All recorded metrics as small charts, evaluation first; says what could not be drawn."""
    parts = []
    for section, charts in curves.group(metrics).items():
        cards = "".join(_curve_card(title, members) for title, members in charts)
        parts.append(f'<h3 class="kind">{section}</h3><div class="grid">{cards}</div>')
    if metrics.unreadable:
        parts.append(
            f'<p class="note">{metrics.unreadable} lines of the metrics were unreadable.</p>'
        )
    return "".join(parts) or '<p class="empty">No metrics were recorded.</p>'


def config_html(config: Mapping) -> str:
    """The resolved config, folded."""
    text = escape(json.dumps(config, indent=2, default=str, ensure_ascii=False))
    return f"<details><summary>Every setting of this run</summary><pre>{text}</pre></details>"


def _drawing(figure: Figure) -> tuple[str, bool]:
    """The HTML of a figure, and whether it needs the full width of the page."""
    if isinstance(figure, Gallery):
        return _gallery(figure), True
    if isinstance(figure, Matrix):
        return _matrix(figure), max(np.shape(figure.values), default=0) > 9
    if isinstance(figure, Lines):
        members = [_given_curve(name, *xy) for name, xy in figure.series.items()]
        labels = {"x_label": figure.x_label, "y_label": figure.y_label}
        return svg.line_chart(figure.title, members, frame=svg.LARGE, **labels), False
    if isinstance(figure, Histogram):
        return svg.histogram(figure), False
    if isinstance(figure, Table):
        return table_html(figure), len(figure.header) > 4
    if isinstance(figure, Animation):
        return _animation(figure), False
    if isinstance(figure, File):
        return _file(figure), False
    raise TypeError(f"not a figure of jaxcog.show: {type(figure).__name__}")


def _curve_card(title: str, members: Sequence[curves.Curve]) -> str:
    last = ""
    if len(members) == 1 and members[0].y.size:
        last = f'<span class="last">{format_number(members[0].y[-1])}</span>'
    notes = "".join(
        f'<p class="note">{c.skipped} values of {escape(c.name)} were not finite, '
        f"the first at step {format_number(c.first_skipped)}.</p>"
        for c in members
        if c.skipped
    )
    return (
        f'<article class="card"><header><h3>{escape(title)}</h3>{last}</header>'
        f"{svg.line_chart(title, members)}{notes}</article>"
    )


def _given_curve(name: str, x: np.ndarray, y: np.ndarray) -> curves.Curve:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    good = np.isfinite(x) & np.isfinite(y)
    order = np.argsort(x[good], kind="stable")
    x, y = x[good][order], y[good][order]
    keep = curves.thin(y, curves.MAX_POINTS)
    return curves.Curve(name, x[keep], y[keep])


def _gallery(gallery: Gallery) -> str:
    rows = []
    most = max((len(pictures) for _, pictures in gallery.rows), default=0)
    if not most:
        return '<p class="empty">No pictures.</p>'
    for label, pictures in gallery.rows:
        head = f"<h4>{escape(label)}</h4>" if label else ""
        shown = "".join(
            _picture(p, gallery.title, f"{label or gallery.title}, picture {i + 1}", most)
            for i, p in enumerate(pictures)
        )
        crowd = "few" if most <= 3 else "some" if most <= 6 else "many"
        rows.append(f'<div class="row">{head}<div class="strip {crowd}">{shown}</div></div>')
    return f'<div class="gallery">{"".join(rows)}</div>'


def _picture(picture: Picture, title: str, place: str, in_row: int) -> str:
    image = draw.rgb_image(picture.rgb, f'gallery "{title}"')
    height, width = draw.shown_size(image.height, image.width, draw.side_for(in_row))
    pixel = width > image.width
    if image.width > 2 * width:
        # Twice the shown size is as much as a fine screen can use.
        image = draw.resized(image, 2 * height, 2 * width)
    mark = picture.border if picture.border in draw.BORDERS else ""
    alt = ", ".join(filter(None, (place, picture.caption, f"marked {mark}" if mark else "")))
    tag = _image_tag(draw.png_bytes(image), "png", alt, (width, height), "pixel" if pixel else "")
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    return (
        f'<figure style="--w:{width}px"><span class="frame {mark}">{tag}</span>{caption}</figure>'
    )


def _matrix(matrix: Matrix) -> str:
    values = np.asarray(matrix.values)
    if values.ndim != 2 or not values.size:
        return '<p class="empty">An empty matrix.</p>'
    if max(values.shape) > plots.MOST_CELLS:
        alt = f"{matrix.title}: {values.shape[0]} rows and {values.shape[1]} columns, shaded"
        image = plots.heat_image(matrix)
        return _image_tag(draw.png_bytes(image), "png", alt, image.size, "heat")
    shade, _ = plots.shades(matrix)
    tall = ' class="tall"' if max(map(len, matrix.column_names), default=0) > 6 else ""
    head = "".join(
        f'<th scope="col"{tall}><span>{escape(name)}</span></th>' for name in matrix.column_names
    )
    square = list(matrix.row_names) == list(matrix.column_names)
    body = []
    for i, name in enumerate(matrix.row_names):
        cells = "".join(
            _cell(values[i, j], shade[i, j], square and i == j) for j in range(values.shape[1])
        )
        body.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return _scroll(
        matrix.title,
        f'<table class="matrix"><thead><tr><td style="--v:0"></td>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>",
    )


def _cell(value: object, shade: float, diagonal: bool) -> str:
    flags = {"minus": shade < 0, "strong": abs(shade) > plots.STRONG, "diagonal": diagonal}
    names = " ".join(name for name, on in flags.items() if on)
    kind = f' class="{names}"' if names else ""
    return f'<td{kind} style="--v:{abs(shade):.3f}">{format_number(value, 3)}</td>'


def _file(file: File) -> str:
    """A link to the file, which lies beside the page."""
    name = escape(file.name)
    size = f"{format_number(len(file.data))} bytes"
    return f'<p><a href="{escape(urllib.parse.quote(file.name))}" download>{name}</a>, {size}</p>'


def _animation(figure: Animation) -> str:
    frames = np.asarray(figure.frames)
    what = f'animation "{figure.title}"'
    data = draw.gif_bytes(frames, figure.frames_per_second, _ANIMATION_SIDE, what)
    height, width = draw.shown_size(frames.shape[1], frames.shape[2], _ANIMATION_SIDE)
    still = draw.resized(draw.rgb_image(frames[0], what), height, width)
    alt = f"{figure.title}: {len(frames)} frames, moving"
    tag = _image_tag(data, "gif", alt, (width, height), "pixel")
    source = _data_uri(draw.png_bytes(still), "png")
    return (
        '<picture class="frame"><source media="(prefers-reduced-motion: reduce)" '
        f'srcset="{source}">{tag}</picture>'
    )


def _image_tag(data: bytes, kind: str, alt: str, size: tuple[int, int], style: str) -> str:
    named = f' class="{style}"' if style else ""
    return (
        f'<img{named} src="{_data_uri(data, kind)}" alt="{escape(alt)}" '
        f'width="{size[0]}" height="{size[1]}">'
    )


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _scroll(label: str, inside: str) -> str:
    """Wide tables scroll by themselves, with the keyboard too, and the page does not."""
    region = f'class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"'
    return f"<div {region}>{inside}</div>"


def _resource(name: str) -> str:
    return importlib.resources.files("jaxcog.reporting").joinpath(name).read_text("utf-8")
