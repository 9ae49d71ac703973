"""Vector sketches: drawing them, reading them from SVG and files, refusing what is none."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from jaxcog.data.inputs import read_inputs
from jaxcog.data.strokes import (
    CANVAS,
    load_stroke_pickle,
    on_canvas,
    rasterize_strokes,
    read_strokes,
    sketch_image,
    svg_to_strokes,
)
from jaxcog.errors import DataError

LINE = np.array([[10, 10, 0], [10, 20, 1]], float)
SQUARE = '<svg xmlns="http://www.w3.org/2000/svg"><path d="M 0 0 L 10 0 V 10 H 0 Z"/></svg>'


def test_lines_are_thick_and_edges_stay_empty():
    image = rasterize_strokes(LINE, 32)  # a canvas of 256 units on 32 pixels
    assert image.dtype == np.uint8
    assert set(np.unique(image)) == {0, 255}
    assert (np.argwhere(image).min(0) >= 0).all()
    whole = rasterize_strokes(LINE)
    assert whole[15, 9:12].tolist() == [255, 255, 255]
    assert whole[15, [8, 12]].tolist() == [0, 0]
    edge = rasterize_strokes(np.array([[0, 0, 0], [0, 255, 1]], float))
    assert not edge.any()
    assert sketch_image(LINE).shape == (CANVAS, CANVAS, 3)


def test_a_stroke_ends_where_the_pen_is_lifted():
    two = np.array([[10, 10, 0], [40, 10, 1], [10, 200, 0], [40, 200, 1]], float)
    image = rasterize_strokes(two)
    assert not image[50:150].any()
    joined = two.copy()
    joined[1, 2] = 0
    assert rasterize_strokes(joined)[50:150].any()


def test_svg_shapes_become_strokes():
    points = svg_to_strokes(SQUARE, normalise=False)
    assert points[:, :2].tolist() == [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
    assert points[:, 2].tolist() == [0, 0, 0, 0, 1]
    placed = svg_to_strokes(SQUARE)
    assert placed[:, :2].min() == pytest.approx(33)
    assert placed[:, :2].max() == pytest.approx(223)
    np.testing.assert_allclose(on_canvas(placed), placed)


@pytest.mark.parametrize(
    ("shape", "strokes", "last"),
    [
        ('<path d="M0,0 C0,10 10,10 10,0 s10,-10 10,0"/>', 1, (20, 0)),
        ('<path d="m1 1 q5,5 10,0 t10,0 m0 5 l1 1"/>', 2, (22, 7)),
        ('<path d="M0 0 A5 5 0 01 10 0"/>', 1, (10, 0)),
        ('<polyline points="0,0 3,4 6,0"/><line x1="1" y1="2" x2="3" y2="4"/>', 2, (3, 4)),
        ('<polygon points="0,0 3,4 6,0"/>', 1, (0, 0)),
        ('<circle cx="5" cy="5" r="2"/>', 1, (7, 5)),
        ('<rect x="1" y="2" width="3" height="4"/>', 1, (1, 2)),
    ],
)
def test_svg_elements(shape, strokes, last):
    points = svg_to_strokes(f"<svg>{shape}</svg>", normalise=False)
    assert points[:, 2].sum() == strokes
    np.testing.assert_allclose(points[-1, :2], last, atol=1e-6)


def test_an_arc_is_round():
    points = svg_to_strokes('<svg><path d="M0 0 A5 5 0 0 1 10 0"/></svg>', normalise=False)
    np.testing.assert_allclose(np.hypot(points[:, 0] - 5, points[:, 1]), 5, atol=1e-6)
    assert points[1:-1, 1].max() < 0  # sweeps clockwise on a canvas whose y points down


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<svg></svg>", "the sketch is empty"),
        ('<svg><path d="M 3 3 L 3 3"/></svg>', "one point only"),
        ("<svg", "is no SVG file"),
        ('<svg><path d="M 3"/></svg>', "cannot be read"),
    ],
)
def test_sketches_that_show_nothing(text, message, tmp_path):
    file = tmp_path / "bad.svg"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_strokes(file)
    assert "bad.svg" in str(error.value)


def test_stroke_files(tmp_path):
    (tmp_path / "a.csv").write_text("10,10,0\n10,20,1\n")
    np.testing.assert_array_equal(read_strokes(tmp_path / "a.csv"), LINE)
    np.save(tmp_path / "b.npy", 10 * LINE)
    assert read_strokes(tmp_path / "b.npy")[:, :2].max() <= 223.001
    np.save(tmp_path / "c.npy", np.zeros((0, 3)))
    with pytest.raises(DataError, match=r"c\.npy: the sketch is empty"):
        read_strokes(tmp_path / "c.npy")
    (tmp_path / "d.csv").write_text("1,2\n3,4\n")
    with pytest.raises(DataError, match=r"must be \[points, 3\]"):
        read_strokes(tmp_path / "d.csv")
    (tmp_path / "e.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"e\.csv cannot be read"):
        read_strokes(tmp_path / "e.csv")


def test_the_coordinate_pickle_holds_data_and_nothing_else(tmp_path):
    file = tmp_path / "ShoeV2_Coordinate"
    file.write_bytes(pickle.dumps({"/train/a_b_1": LINE}))
    loaded = load_stroke_pickle(file)
    np.testing.assert_array_equal(loaded["/train/a_b_1"], LINE)
    for content, message in (
        ({"/train/a_1": LINE[:0]}, "/train/a_1: the sketch is empty"),
        ({"/train/a_1": LINE[:1]}, "/train/a_1: the sketch has one point only"),
        ({"/train/a_1": LINE * np.nan}, "not finite"),
        ([LINE], "must hold a dict"),
    ):
        file.write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=message):
            load_stroke_pickle(file)
    file.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match="cannot be read"):
        load_stroke_pickle(file)


def test_inputs_are_drawn_or_photographed(tmp_path):
    from PIL import Image

    (tmp_path / "a.svg").write_text(SQUARE)
    for name in ("b.png", "sketch_c.png"):
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / name)
    values, _ = read_inputs("sketches and photos", [tmp_path])
    assert [value["sketch"] for value in values] == [True, False, True]
    assert values[0]["image"].shape == (CANVAS, CANVAS, 3)
