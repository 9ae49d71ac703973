"""The report of a run, pictures of a prediction, tables in a terminal: the door of `reporting`.

write_report(workdir / "report.html", title=..., metrics_file=workdir / "metrics.jsonl", ...)
save_figures(figures, out_dir)
text_table(table)
"""

from __future__ import annotations

import io
import json
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxcog.reporting import draw, page, plots
from jaxcog.reporting.curves import read_metrics
from jaxcog.show import Animation, Figure, File, Gallery, Histogram, Lines, Matrix, Table

_SAVED_ANIMATION_SIDE = 480


def write_report(
    path: Path,
    *,
    title: str,
    subtitle: str,
    config: Mapping,
    metrics_file: Path,
    table: Table,
    figures: Sequence[Figure],
    summary: Mapping[str, str],
) -> None:
    """Writes one HTML file that opens offline; it replaces an older one only when it is complete.

    Args:
      config: the resolved config as JSON values, shown folded.
      metrics_file: metrics.jsonl of the run; missing, truncated or with NaN it is still shown.
      table: the final metrics.
      figures: what the task wants to show, in this order; files are written beside the report.
      summary: short facts for the top of the page, e.g. {"Steps": "1,000", "Device": "..."}.

    Raises:
      ValueError: a picture that is not uint8 [H, W, 3].
      TypeError: something that is no figure.
    """
    path, names = Path(path), {Path(path).name}
    for figure in figures:
        if isinstance(figure, File):
            _write(path.parent / _own_name(figure, names), figure.data)
    sections = [
        (
            "Results",
            f'<article class="card">{_table_head(table)}{page.table_html(table)}</article>',
        ),
        ("Curves", page.curves_html(read_metrics(Path(metrics_file)))),
    ]
    if figures:
        sections.append(("Figures", page.figures_html(figures)))
    sections.append(("Config", page.config_html(config)))
    _write(path, page.page(title, subtitle, sections, summary).encode())


def save_figures(
    figures: Sequence[Figure],
    out_dir: Path,
    *,
    title: str = "Predictions",
    pages: Sequence[tuple[str, str]] = (),
) -> list[Path]:
    """Writes each figure under a name made from its title, and index.html with all of them.

    Galleries, matrices, curves and histograms become .png, animations .gif (and .mp4 with the extra
    `jaxcog[video]`), tables .md and .json; files keep their own names. Existing files of the same
    names are replaced. `pages` are links at the top, (text, address). Returns the paths written,
    index.html last.

    Raises:
      ValueError: a picture that is not uint8 [H, W, 3], or two files of one name.
      TypeError: something that is no figure.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    written, taken, names = [], {"index"}, {"index.html"}
    for figure in figures:
        if isinstance(figure, File):
            written.append(out_dir / _own_name(figure, names))
            _write(written[-1], figure.data)
            continue
        stem = _file_name(figure.title, taken)
        for suffix, content in _files(figure).items():
            written.append(out_dir / f"{stem}{suffix}")
            _write(written[-1], content)
    index = out_dir / "index.html"
    sections = [("Pages", page.links_html(pages))] if pages else []
    sections += [("Figures", page.figures_html(figures))] if figures else []
    _write(index, page.page(title, "", sections).encode())
    return [*written, index]


def text_table(table: Table) -> str:
    """The table for a terminal, without colours: boxed by rich, or aligned where it is missing."""
    rows = page.cell_texts(table)
    header = [str(name) for name in table.header]
    right = page.numeric_columns(table)
    try:
        return _rich_table(table, header, rows, right)
    except ImportError:
        return _plain_table(table, header, rows, right)


def _rich_table(table: Table, header: list[str], rows: list[list[str]], right: list[bool]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    # Text, not str: square brackets in a cell are no markup.
    boxed = RichTable(
        title=Text(table.title) if table.title else None,
        caption=Text(table.note) if table.note else None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name, is_number in zip(header, right, strict=True):
        boxed.add_column(Text(name), justify="right" if is_number else "left", no_wrap=True)
    for row in rows:
        boxed.add_row(*map(Text, row))
    out = io.StringIO()
    Console(file=out, width=10_000, color_system=None).print(boxed)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")


def _plain_table(table: Table, header: list[str], rows: list[list[str]], right: list[bool]) -> str:
    widths = [max(len(row[j]) for row in [header, *rows]) for j in range(len(header))]

    def line(cells: list[str]) -> str:
        padded = (
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(cells, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    body = [line(header), "  ".join("-" * width for width in widths), *map(line, rows)]
    return "\n".join([*filter(None, [table.title]), *body, *filter(None, [table.note])])


def _table_head(table: Table) -> str:
    note = f'<p class="note">{page.escape(table.note)}</p>' if table.note else ""
    return f"<header><h3>{page.escape(table.title)}</h3>{note}</header>"


def _files(figure: Figure) -> dict[str, bytes]:
    """The contents of a figure's files by suffix."""
    if isinstance(figure, Gallery):
        return {".png": draw.png_bytes(draw.contact_sheet(figure))}
    if isinstance(figure, Matrix):
        return {".png": draw.png_bytes(plots.matrix_image(figure))}
    if isinstance(figure, Lines):
        return {".png": draw.png_bytes(plots.lines_image(figure))}
    if isinstance(figure, Histogram):
        return {".png": draw.png_bytes(plots.histogram_image(figure))}
    if isinstance(figure, Animation):
        what = f'animation "{figure.title}"'
        speed = figure.frames_per_second
        gif = draw.gif_bytes(figure.frames, speed, _SAVED_ANIMATION_SIDE, what)
        film = draw.mp4_bytes(figure.frames, speed, _SAVED_ANIMATION_SIDE)
        return {".gif": gif} | ({".mp4": film} if film else {})
    if isinstance(figure, Table):
        return {".md": markdown(figure).encode(), ".json": _json(figure).encode()}
    raise TypeError(f"not a figure of jaxcog.show: {type(figure).__name__}")


def markdown(table: Table, level: int = 1) -> str:
    """The table as a Markdown section, with a heading of that level."""

    def line(cells: Sequence[object]) -> str:
        texts = (str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
        return f"| {' | '.join(texts)} |"

    marks = ("---:" if right else "---" for right in page.numeric_columns(table))
    rows = [line(table.header), line(list(marks)), *map(line, page.cell_texts(table))]
    notes = table.note.splitlines()
    dash = "- " if len(notes) > 1 else ""
    note = "".join(f"\n{dash}{text}" for text in notes)
    note = f"{note}\n" if note else ""
    return f"{'#' * level} {table.title}\n\n" + "\n".join(rows) + "\n" + note


def _json(table: Table) -> str:
    value = {
        "title": table.title,
        "header": list(table.header),
        "note": table.note,
        "rows": [[_plain(cell) for cell in row] for row in table.rows],
    }
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _plain(cell: object) -> object:
    if isinstance(cell, (np.generic, np.ndarray)):
        cell = cell.tolist()
    if isinstance(cell, float) and not np.isfinite(cell):
        return None  # JSON has no NaN
    return cell if cell is None or isinstance(cell, (str, int, float, list)) else str(cell)


def _file_name(title: str, taken: set[str]) -> str:
    """Letters, digits and hyphens from the title; never one of `taken`, to which it is added."""
    ascii_title = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    stem = re.sub(r"[^a-z0-9]+", "-", ascii_title.lower()).strip("-")[:60].strip("-") or "figure"
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}-{count}"
    taken.add(name)
    return name


def _own_name(file: File, taken: set[str]) -> str:
    """The file's name, which stays inside the folder and is none of `taken`, to which it is added.

    Raises ValueError otherwise.
    """
    inside = file.name[:1] not in ("", ".") and Path(file.name).name == file.name
    if file.name in taken or not inside:
        raise ValueError(f'file "{file.title}": "{file.name}" is no name, or is taken already')
    taken.add(file.name)
    return file.name


def _write(path: Path, content: bytes) -> None:
    """Replaces the file in one move: a reader finds the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
