from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from jaxcog.data.segmentation import (
    EvalTransform,
    TrainTransform,
    check_pair,
    decode_label,
    label_table,
    map_labels,
    nearest_window,
    resize_window,
    scale_crop_mirror,
)
from jaxcog.data.types import BadRecord
from jaxcog.errors import DataError

TABLE = label_table({7: 0, 8: 1, 33: 2}, [0, 255])
HEIGHT, WIDTH = 20, 30


def scene(height=HEIGHT, width=WIDTH):
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(height, width, 3)).astype(np.uint8)
    return image, rng.choice(np.array([0, 7, 8, 33, 255], np.uint8), size=(height, width))


def png(values):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "png")
    return buffer.getvalue()


def record(image, label):
    return {"image": png(image), "label": png(label)}


def test_labels_become_classes_and_unknown_ones_are_named():
    _, label = scene()
    mapped = map_labels(label, TABLE)
    assert mapped.dtype == np.uint8
    for value, index in ((7, 0), (8, 1), (33, 2), (0, 255), (255, 255)):
        assert set(mapped[label == value]) == {index}
    label[3, 4:6] = 9
    with pytest.raises(
        DataError, match=r"a\.png: label values \[9\] in 2 pixels.*0, 7\.\.8, 33, 255"
    ):
        map_labels(label, TABLE, "a.png")
    with pytest.raises(DataError, match=r"\[-1, 300\]"):
        map_labels(np.array([[-1, 300, 7]]), TABLE)


def test_sizes_that_differ_are_named():
    with pytest.raises(
        DataError, match=r"a\.png: the image is 4 x 6 and its label 4 x 5 .*one size"
    ):
        check_pair((4, 6, 3), (4, 5), "a.png")


def test_windows_are_parts_of_the_whole_resized_image():
    image, label = scene()
    for scale in (0.7, 1.0, 1.9):
        rows, columns = (round(n * scale) for n in (HEIGHT, WIDTH))
        whole = resize_window(image, scale, (0, rows), (0, columns))
        part = resize_window(image, scale, (3, 9), (5, 14))
        np.testing.assert_array_equal(part, whole[3:9, 5:14])
        classes = nearest_window(label, scale, (0, rows), (0, columns))
        np.testing.assert_array_equal(
            nearest_window(label, scale, (3, 9), (5, 14)), classes[3:9, 5:14]
        )
    np.testing.assert_array_equal(resize_window(image, 1.0, (0, HEIGHT), (0, WIDTH)), image)


def test_padding_follows_the_mirror():
    image, label = scene()
    given = {"scale": 1.0, "crop": (24, 36), "offset": (0, 0)}
    plain = scale_crop_mirror(image, label, **given, mirror=False)
    turned = scale_crop_mirror(image, label, **given, mirror=True)
    assert plain["window"].tolist() == [0, HEIGHT, 0, WIDTH]
    assert turned["window"].tolist() == [0, HEIGHT, 36 - WIDTH, 36]
    for name in ("image", "label"):
        np.testing.assert_array_equal(turned[name], plain[name][:, ::-1])
    np.testing.assert_array_equal(plain["image"][:HEIGHT, :WIDTH], image)
    assert (plain["label"][HEIGHT:] == 255).all()
    assert (plain["image"][:, WIDTH:] == 0).all()


def test_a_crop_beyond_the_padded_image_is_named():
    image, label = scene()
    with pytest.raises(
        DataError, match=r"crop of 24 x 36 at \(0, 0\).*padded image of 20 x 36.*smaller crop"
    ):
        scale_crop_mirror(
            image, label, scale=1.0, crop=(24, 36), offset=(0, 0), mirror=False, pad_to=(20, 36)
        )
    with pytest.raises(DataError, match=r"at \(5, 0\)"):
        scale_crop_mirror(image, label, scale=1.0, crop=(16, 16), offset=(5, 0), mirror=False)


def test_training_examples_have_one_size_and_depend_on_their_randomness_only():
    transform = TrainTransform((0.5, 1.0, 2.0), (24, 28), tuple(TABLE))
    encoded = record(*scene())
    windows = set()
    for seed in range(12):
        one = transform(encoded, np.random.default_rng(seed))
        two = transform(encoded, np.random.default_rng(seed))
        assert one["image"].shape == (24, 28, 3)
        for name, value in one.items():
            np.testing.assert_array_equal(value, two[name])
        top, bottom, left, right = one["window"]
        assert (one["label"][bottom:] == 255).all()
        windows.add((top, bottom, left, right))
    assert len(windows) > 2


def test_evaluation_examples_are_padded_or_reduced_never_enlarged():
    transform, random = EvalTransform((24, 36), tuple(TABLE)), np.random.default_rng(0)
    image, label = scene()
    small = transform(record(image, label), random)
    np.testing.assert_array_equal(small["image"][:HEIGHT, :WIDTH], image)
    np.testing.assert_array_equal(small["label"][:HEIGHT, :WIDTH], map_labels(label, TABLE))
    large = transform(record(*scene(48, 60)), random)
    assert large["image"].shape == (24, 36, 3)
    assert large["window"].tolist() == [0, 24, 0, 30]
    assert (large["label"][:, 30:] == 255).all()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (b"\x89PNG broken", "not a readable label image"),
        (png(np.zeros((HEIGHT, WIDTH, 3), np.uint8)), "one channel"),
        (png(np.zeros((HEIGHT, 5), np.uint8)), "must have one size"),
        (png(np.full((HEIGHT, WIDTH), 99, np.uint8)), r"label values \[99\]"),
    ],
)
def test_a_bad_record_says_why(label, message):
    transform = EvalTransform((24, 36), tuple(TABLE))
    with pytest.raises(BadRecord, match=message):
        transform({"image": png(scene()[0]), "label": label}, np.random.default_rng(0))


def test_sixteen_bit_labels_are_read():
    values = np.array([[1, 300]], np.uint16)
    assert decode_label(png(values)).tolist() == [[1, 300]]
