from __future__ import annotations

import builtins
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcog import report, show
from jaxcog.reporting import axes, curves, draw, page, plots

ATTACK = '</script><script>alert(1)</script> "quoted" & more'
VOID = {"meta", "img", "source", "br", "link", "input"}


class Page(HTMLParser):
    """Collects elements, and fails on one that is closed in the wrong place."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def find(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for t, a in self.elements if t == tag and wanted.items() <= a.items()]

    def with_class(self, name: str) -> list[dict[str, str]]:
        return [a for _, a in self.elements if name in a.get("class", "").split()]


def picture(height: int = 8, width: int = 8, **rest) -> show.Picture:
    rgb = np.arange(height * width * 3).reshape(height, width, 3) % 251
    return show.Picture(rgb.astype(np.uint8), **rest)


def all_figures() -> list[show.Figure]:
    rows = [
        ("query 3", [picture(caption="3", border="good"), picture(caption=ATTACK, border="bad")]),
        ("", [picture(40, 700)]),
    ]
    names = ["cat", "dog", "an elephant"]
    x = np.linspace(0, 1, 30)
    return [
        show.Gallery("Nearest", rows, "a note"),
        show.Matrix("Confusion", np.array([[5, 1, 0], [2, 7, 1], [0, 0, 9]]), names, names),
        show.Lines("Précision / recall", {"a": (x, 1 - x), ATTACK: (x, x)}, "recall", "precision"),
        show.Histogram("Distances", np.arange(5), {"same": np.arange(4), "other": np.ones(4)}),
        show.Table("Per class", ["class", "IoU"], [["a|b", 0.5], [ATTACK, np.float32(0.25)]]),
        show.Animation("Episode", np.stack([picture().rgb, 255 - picture().rgb]), 10.0),
    ]


def write_metrics(path: Path, records: list[dict], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records) + tail)
    return path


def some_records() -> list[dict]:
    train = [
        {"step": s, "kind": "train", "time": s / 2, "loss": 3 * 0.9**s, "lr": 0.1}
        for s in range(1, 80)
    ]
    evals = [
        {"step": s, "kind": "eval", "time": s / 2, "loss": 1.0, "art/map": s / 99, "photo/map": 0.5}
        for s in range(10, 80, 10)
    ]
    return train + evals


@pytest.fixture
def written(tmp_path: Path) -> str:
    path = tmp_path / "run" / "report.html"
    path.parent.mkdir()
    metrics = write_metrics(tmp_path / "metrics.jsonl", some_records(), '{"step": 80, "ki')
    report.write_report(
        path,
        title="mixstyle/pacs",
        subtitle=f"Subtitle {ATTACK}",
        config={"task": {"p": 0.5, "note": ATTACK}},
        metrics_file=metrics,
        table=show.Table("Final", ["metric", "value"], [["accuracy", 0.7]]),
        figures=all_figures(),
        summary={"Steps": "79", "Name": ATTACK},
    )
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text("utf-8")


def test_page_is_well_formed_and_needs_nothing_from_outside(written):
    parsed = Page(written)
    assert "http:" not in written
    assert "https:" not in written
    assert "@import" not in written
    assert not re.search(r"url\(", written)
    for name in ("src", "href", "srcset", "data", "action"):
        for _, attributes in parsed.elements:
            if name in attributes:
                assert attributes[name].startswith(("data:image/", "#"))
    policy = parsed.find("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy[0]["content"]
    assert "prefers-color-scheme: dark" in written


def test_page_shows_every_kind_of_figure(written):
    parsed = Page(written)
    for kind in ("gallery", "matrix", "lines", "histogram", "table", "animation"):
        assert len(parsed.with_class(f"{kind}-card")) == 1
    assert len(parsed.with_class("good")) == 1
    assert len(parsed.with_class("bad")) == 1
    assert sum("image/gif" in a["src"] for a in parsed.find("img")) == 1
    assert len(parsed.find("details")) == 1
    headings = [text for tag, text in parsed.texts if tag in ("h1", "h2")]
    assert headings == ["mixstyle/pacs", "Results", "Curves", "Figures", "Config"]


def test_page_can_be_used_without_sight_of_it(written):
    parsed = Page(written)
    assert all(a["alt"] for a in parsed.find("img"))
    assert all(a["aria-label"] for a in parsed.find("svg"))
    assert all(a.get("scope") in ("row", "col") for a in parsed.find("th"))
    assert any("marked bad" in a["alt"] for a in parsed.find("img"))
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in parsed.find("a")} == set(ids)


def test_text_of_others_is_never_markup(written):
    parsed = Page(written)
    scripts = [text for tag, text in parsed.texts if tag == "script"]
    assert len(scripts) == len(parsed.find("script"))
    assert not any(text.strip() == "alert(1)" for text in scripts)
    for tag in ("p", "dd", "figcaption", "pre", "th"):
        joined = "".join(text for t, text in parsed.texts if t == tag)
        assert "<script>alert(1)</script>" in joined
    for attributes in parsed.find("script", type="application/json"):
        assert attributes == {"type": "application/json"}


def test_charts_carry_their_values(written):
    parsed = Page(written)
    data = [json.loads(t) for tag, t in parsed.texts if tag == "script" and t.startswith("{")]
    series = [{s["name"]: s for s in chart["series"]} for chart in data]
    by_names = {tuple(chart): chart for chart in series}
    assert by_names[("train", "eval")]["train"]["x"] == list(range(1, 80))
    assert by_names[("art", "photo")]["art"]["y"][0] == pytest.approx(10 / 99, rel=1e-4)
    assert ("lr",) in by_names
    shared = data[series.index(by_names[("train", "eval")])]
    assert set(shared["y"]) == {"linear", "log"}
    switches = [a for a in parsed.find("div") if a.get("data-scale") == "log"]
    assert len(switches) == 1  # the loss falls by a factor of 4000; nothing else does


def test_metrics_survive_truncation_nan_text_and_repeats(tmp_path):
    lines = [
        '{"step": 1, "kind": "train", "time": 0.1, "loss": 2.0, "name": "text", "flag": true}',
        '{"step": 2, "kind": "train", "loss": NaN}',
        "not json",
        "[1, 2]",
        "",
        '{"step": 3, "kind": "train", "loss": null}',
        '{"step": 5, "kind": "train", "loss": Infinity}',
        '{"step": 4, "kind": "train", "loss": 1.0}',
        '{"step": 1, "kind": "train", "loss": 7.0}',
        '{"step": 6, "kind": "tr',
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_bytes("\n".join(lines).encode() + b"\xff")
    metrics = curves.read_metrics(path)
    assert list(metrics.curves) == [("train", "loss")]
    loss = metrics.curves["train", "loss"]
    np.testing.assert_array_equal(loss.x, [1, 4])
    np.testing.assert_array_equal(loss.y, [7, 1])
    assert (loss.skipped, loss.first_skipped) == (3, 2.0)
    assert metrics.unreadable == 2
    Page(page.curves_html(metrics))


def test_no_metrics_at_all(tmp_path):
    assert curves.read_metrics(tmp_path / "absent.jsonl") == curves.Metrics({})
    path = write_metrics(tmp_path / "m.jsonl", [{"step": 1, "kind": "train", "loss": None}])
    html = page.curves_html(curves.read_metrics(path))
    assert "No finite values" in html
    assert "No metrics were recorded" in page.curves_html(curves.Metrics({}))


def test_long_curves_are_thinned_without_losing_a_peak(tmp_path):
    values = np.sin(np.arange(20_000) / 700)
    values[12_345], values[777] = 50.0, -50.0
    records = [{"step": i, "kind": "train", "loss": float(v)} for i, v in enumerate(values)]
    curve = curves.read_metrics(write_metrics(tmp_path / "m.jsonl", records)).curves[
        "train", "loss"
    ]
    assert 500 < curve.x.size <= curves.MAX_POINTS
    assert np.all(np.diff(curve.x) > 0)
    assert {0, 777, 12_345, 19_999} <= set(curve.x.astype(int))
    assert curve.smooth is not None
    assert np.abs(curve.smooth).max() < 2


def test_moving_average_is_a_mean_of_neighbours():
    y = np.array([0.0, 3.0, 6.0, 0.0, 0.0])
    np.testing.assert_allclose(curves.moving_average(y, 3), [1.5, 3, 3, 2, 0])
    np.testing.assert_allclose(curves.moving_average(np.full(50, 2.5), 9), 2.5)


def test_scales_place_values_and_choose_round_ticks():
    scale = axes.Scale(0.0, 10.0)
    np.testing.assert_allclose(scale.unit(np.array([0, 5, 10, 99])), [0, 0.5, 1, 1])
    assert [label for _, label in scale.ticks(5)] == ["0", "2", "4", "6", "8", "10"]
    log = axes.Scale(0.01, 100.0, log=True)
    np.testing.assert_allclose(log.unit(np.array([0.01, 1.0, 100.0])), [0, 0.5, 1])
    assert [label for _, label in log.ticks()] == ["0.01", "0.1", "1", "10", "100"]
    assert [label for _, label in axes.Scale(0, 20_000).ticks(4)][:2] == ["0", "5k"]


@pytest.mark.parametrize(
    "values", [[], [3.0], [0.0, 0.0], [-1e308, 1e308], [1e-12, 2e-12], [5.0, 5.0 + 1e-9]]
)
def test_any_finite_values_get_an_axis(values):
    scale = axes.fit(np.array(values))
    assert scale.high > scale.low
    assert 2 <= len(scale.ticks(5)) <= 12
    assert np.all(np.isfinite(scale.unit(np.array(values))))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (1_234_567, "1,234,567"),
        (0.5, "0.5"),
        (0.76234, "0.7623"),
        (np.float32(12.3456), "12.35"),
        (100.0, "100"),
        (2500.0, "2500"),
        (0.0, "0"),
        (3.2e-7, "3.2e-07"),
        (float("nan"), "nan"),
        (np.array(2), "2"),
        (True, "True"),
        (None, "None"),
        ("text", "text"),
    ],
)
def test_numbers_as_text(value, text):
    assert axes.format_number(value) == text


def test_columns_align_at_the_decimal_point():
    assert axes.format_column([0.5, 0.7623, 1.0, "x", 3]) == [
        "0.5000",
        "0.7623",
        "1.0000",
        "x",
        "3",
    ]
    assert axes.format_column([3, 40]) == ["3", "40"]


def test_confusion_is_shaded_by_row_and_other_matrices_by_value():
    names = ["a", "b"]
    shade, _ = plots.shades(show.Matrix("m", np.array([[1, 1], [0, 90]]), names, names))
    np.testing.assert_allclose(shade, [[0.5, 0.5], [0, 1]])
    shade, _ = plots.shades(show.Matrix("m", np.array([[1.0, -0.5]]), ["r"], names))
    np.testing.assert_allclose(shade, [[1, -0.5]])
    with pytest.raises(ValueError, match='"m"'):
        plots.shades(show.Matrix("m", np.eye(3), names, names))


def test_a_matrix_too_large_for_numbers_becomes_a_picture():
    names = [f"class {i}" for i in range(40)]
    html = page.figure_html(show.Matrix("big", np.eye(40), names, names))
    assert "<table" not in html
    assert Page(html).find("img")[0]["alt"].startswith("big: 40 rows")
    assert plots.heat_image(show.Matrix("big", np.eye(40), names, names)).size == (40, 40)


def test_small_pictures_grow_by_whole_factors_and_large_ones_shrink():
    assert draw.shown_size(8, 8, 96) == (96, 96)
    assert draw.shown_size(28, 20, 96) == (84, 60)
    assert draw.shown_size(512, 1024, 340) == (170, 340)
    assert draw.shown_size(1, 4000, 340) == (1, 340)
    gallery = show.Gallery("g", [("", [picture(8, 8), picture(400, 2000)])])
    parsed = Page(page.figure_html(gallery))
    small, large = parsed.find("img")
    assert small["class"] == "pixel"
    assert "class" not in large
    assert len(large["src"]) < 400 * 2000


def test_films(tmp_path):
    av = pytest.importorskip("av", reason="films need the extra: jaxcog[video]")
    frames = np.zeros((9, 21, 15, 3), np.uint8)
    frames[5:] = 255
    paths = report.save_figures([show.Animation("Ages", frames, 8)], tmp_path)
    assert [path.name for path in paths] == ["ages.gif", "ages.mp4", "index.html"]
    with av.open(tmp_path / "ages.mp4") as film:
        seen = [frame.to_ndarray(format="rgb24").mean() for frame in film.decode(video=0)]
    assert [mean > 128 for mean in seen] == [False] * 5 + [True] * 4


def test_saved_files(tmp_path):
    figures = [*all_figures(), show.Table("per CLASS!", ["a"], [[float("nan")]])]
    paths = report.save_figures(figures, tmp_path / "out" / "deep")
    films = [p for p in paths if p.suffix == ".mp4"]
    paths = [p for p in paths if p not in films]
    assert [p.name for p in paths] == [
        "nearest.png",
        "confusion.png",
        "precision-recall.png",
        "distances.png",
        "per-class.md",
        "per-class.json",
        "episode.gif",
        "per-class-2.md",
        "per-class-2.json",
        "index.html",
    ]
    assert sorted((tmp_path / "out" / "deep").iterdir()) == sorted([*paths, *films])
    for path in paths[:4]:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert 300 <= image.width <= 2000
            assert 200 <= image.height <= 2000
    with Image.open(paths[6]) as image:
        assert (image.n_frames, image.info["duration"], image.info["loop"]) == (2, 100, 0)
        assert image.size == (480, 480)
    assert "| a\\|b | 0.50 |" in paths[4].read_text()
    assert json.loads(paths[5].read_text())["rows"][1] == [ATTACK, 0.25]
    assert json.loads(paths[8].read_text())["rows"] == [[None]]
    Page(paths[-1].read_text("utf-8"))


def test_contact_sheet_keeps_pictures_whole_and_wraps_long_rows():
    pictures = [picture(16, 16, caption=f"picture {i}", border="good") for i in range(40)]
    one_row = draw.contact_sheet(show.Gallery("g", [("r", pictures[:8])]))
    five_rows = draw.contact_sheet(show.Gallery("g", [("r", pictures)]))
    assert five_rows.width <= 1600
    assert five_rows.height > 2 * one_row.height
    plain = show.Gallery("g", [("", [show.Picture(np.full((4, 4, 3), 77, np.uint8))])])
    sheet = np.asarray(draw.contact_sheet(plain))
    assert (sheet == 77).all(axis=-1).sum() == 480 * 480


@pytest.mark.parametrize("title", ["../../etc/passwd", "", "日本", "index", "a" * 300, "con\x00\n"])
def test_file_names_are_safe_and_unique(tmp_path, title):
    gallery = show.Gallery(title, [("", [picture()])])
    paths = report.save_figures([gallery, gallery], tmp_path)
    assert len(set(paths)) == 3
    assert all(p.parent == tmp_path and p.exists() for p in paths)
    assert all(re.fullmatch(r"[a-z0-9-]{1,64}\.(png|html)", p.name) for p in paths)


def test_empty_figures_are_drawn_as_empty(tmp_path):
    empty = np.zeros(0)
    figures = [
        show.Gallery("none", []),
        show.Gallery("row of none", [("label", [])]),
        show.Lines("no points", {"a": (empty, empty)}),
        show.Lines("no series", {}),
        show.Lines("nan", {"a": (np.arange(2), np.array([np.nan, 1.0]))}),
        show.Histogram("no series", np.arange(3), {}),
        show.Matrix("no cells", np.zeros((0, 0)), [], []),
        show.Table("no rows", ["a"], []),
    ]
    for path in report.save_figures(figures, tmp_path):
        assert path.stat().st_size
    Page((tmp_path / "index.html").read_text("utf-8"))
    assert report.save_figures([], tmp_path / "b") == [tmp_path / "b" / "index.html"]


@pytest.mark.parametrize(
    ("figure", "error", "words"),
    [
        (
            show.Gallery("odd", [("", [show.Picture(np.zeros((4, 4, 3)))])]),
            ValueError,
            "odd.*uint8",
        ),
        (show.Animation("film", np.zeros((0, 4, 4, 3), np.uint8)), ValueError, "film"),
        (show.Table("rows", ["a", "b"], [[1]]), ValueError, "rows"),
        ("text", TypeError, "not a figure"),
    ],
)
def test_what_cannot_be_drawn_is_named(figure, error, words):
    with pytest.raises(error, match=words):
        page.figure_html(figure)


def test_files_keep_their_names_and_are_linked(tmp_path):
    file = show.File("Index & co", "a b.npz", b"\x00" * 1234, note="Open it")
    paths = report.save_figures([file], tmp_path / "out")
    assert [p.name for p in paths] == ["a b.npz", "index.html"]
    assert paths[0].read_bytes() == file.data
    (link,) = Page(paths[1].read_text("utf-8")).find("a")
    assert link["href"] == "a%20b.npz"
    rest = {"title": "t", "subtitle": "", "config": {}, "summary": {}}
    rest |= {"metrics_file": tmp_path / "m", "table": show.Table("", ["a"], [])}
    report.write_report(tmp_path / "run" / "report.html", figures=[file], **rest)
    assert (tmp_path / "run" / "a b.npz").read_bytes() == file.data


@pytest.mark.parametrize("name", ["index.html", "../x", ".hidden", "", "twice"])
def test_a_file_cannot_leave_its_folder_nor_replace_another(tmp_path, name):
    twice = show.File("first", "twice", b"1")
    with pytest.raises(ValueError, match="is no name, or is taken"):
        report.save_figures([twice, show.File("second", name, b"2")], tmp_path)


def test_an_older_report_survives_a_failure(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("older")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    rest = {"title": "t", "subtitle": "", "config": {}, "figures": [], "summary": {}}
    with pytest.raises(OSError, match="disk"):
        report.write_report(
            path, metrics_file=tmp_path / "m", table=show.Table("", ["a"], []), **rest
        )
    assert path.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_text_table_with_and_without_rich(monkeypatch):
    table = show.Table("Final", ["metric", "value"], [["[red]mAP", 0.5], ["n", 0.1234]], "A note.")
    boxed = report.text_table(table)

    real_import = builtins.__import__

    def no_rich(name, *rest):
        if name.split(".")[0] == "rich":
            raise ImportError(name)
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_rich)
    plain = report.text_table(table)
    assert plain.splitlines() == [
        "Final",
        "metric     value",
        "--------  ------",
        "[red]mAP  0.5000",
        "n         0.1234",
        "A note.",
    ]
    for text in ("Final", "[red]mAP", "0.5000", "0.1234", "A note."):
        assert text in boxed
    assert "\x1b" not in boxed
