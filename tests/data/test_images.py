"""Transforms give torchvision's sizes and places; undecodable bytes are bad records."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcog.data import images
from jaxcog.data.types import BadRecord


def picture(height=48, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def test_retrieval_transforms_are_those_of_the_reference(request):
    path = Path(request.config.getoption("--golden")) / "orthohash__test_transforms.npz"
    if not path.exists():
        pytest.skip(f"{path.name} is not in the folder of golden files")
    golden = np.load(path)
    resized = images.resize_shorter(golden["in/image"], 40)
    out = images.normalise(images.centre_crop(resized, 32))
    np.testing.assert_allclose(out.transpose(2, 0, 1), golden["out/nuswide_like"], atol=2e-3)
    out = images.normalise(images.resize_shorter(golden["in/image"], 32))
    np.testing.assert_allclose(out.transpose(2, 0, 1), golden["out/square_like"], atol=2e-3)


def test_decoding():
    image = picture()
    np.testing.assert_array_equal(images.decode(encoded(image)), image)
    grey = images.decode(encoded(image[..., 0]))
    np.testing.assert_array_equal(grey, np.repeat(image[..., :1], 3, axis=2))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert images.decode(encoded(image, "JPEG", exif=exif)).shape == image.shape


@pytest.mark.parametrize("damage", [lambda b: b[:200], lambda b: b"", lambda b: b"<html>" + b])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damaged_files_are_bad_records(damage, kind):
    with pytest.raises(BadRecord, match="not a readable image"):
        images.decode(damage(encoded(picture(), kind)))


def test_resizing_keeps_the_mean_when_it_shrinks():
    image = picture(64, 64)
    small = images.resize(image, 8, 8)
    assert abs(small.mean() - image.mean()) < 1.5
    assert images.resize_shorter(picture(30, 50), 20).shape == (20, 33, 3)
    assert images.resize_shorter(picture(50, 30), 20).shape == (33, 20, 3)


def test_centre_crop_is_in_the_middle():
    image = picture(9, 12)
    np.testing.assert_array_equal(images.centre_crop(image, 5), image[2:7, 4:9])
    with pytest.raises(BadRecord, match="9x12 is too small"):
        images.centre_crop(image, 10)
    with pytest.raises(BadRecord, match="too small"):
        images.random_crop(image, 10, np.random.default_rng(0))


def test_random_crops_reach_every_place():
    image = picture(6, 7)
    random = np.random.default_rng(0)
    seen = {images.random_crop(image, 5, random).tobytes() for _ in range(100)}
    assert len(seen) == 2 * 3


def test_random_resized_crop_respects_area_and_aspect():
    y, x = np.mgrid[:96, :96]
    image = np.stack([y, x, 0 * x], -1).astype(np.uint8) * np.uint8(2)
    random = np.random.default_rng(0)
    areas = []
    for _ in range(300):
        out = images.random_resized_crop(image, 32, random, scale=(0.25, 1.0)) / 2.0
        height = (out[-1, 0, 0] - out[0, 0, 0]) * 32 / 31
        width = (out[0, -1, 1] - out[0, 0, 1]) * 32 / 31
        areas.append(height * width / 96**2)
        assert 0.70 < width / height < 1.43
    assert min(areas) > 0.22
    assert max(areas) > 0.9
    assert abs(np.mean(areas) - 0.6) < 0.07


def test_narrow_images_fall_back_to_the_centre():
    out = images.random_resized_crop(picture(4, 200), 16, np.random.default_rng(0))
    assert out.shape == (16, 16, 3)


def test_normalise():
    image = np.array([[[0, 128, 255]]], np.uint8)
    out = images.normalise(image, (0.5, 0.5, 0.25), (0.5, 0.25, 0.5))
    np.testing.assert_allclose(out[0, 0], [-1, (128 / 255 - 0.5) / 0.25, 1.5], atol=1e-6)
    assert out.dtype == np.float32


def test_jitter_changes_brightness_within_its_range():
    image = np.full((4, 4, 3), 100, np.uint8)
    random = np.random.default_rng(0)
    values = [images.colour_jitter(image, random, brightness=0.2)[0, 0, 0] for _ in range(200)]
    assert min(values) < 83
    assert min(values) >= 80
    assert max(values) > 117
    assert max(values) <= 120
    np.testing.assert_array_equal(images.colour_jitter(image, random), image)


def test_views_share_the_image_and_survive_pickling():
    steps = (
        images.Resize(32),
        images.EnlargeAndCrop(),
        images.Flip(),
        images.ColourJitter(0.1, 0.1, 0.1),
        images.Normalise(),
    )
    transform = images.Views(
        (("weak", (images.ResizeShorter(32), images.CentreCrop(32))), ("strong", steps))
    )
    record = {"image": encoded(picture()), "label": 3}
    out = transform(record, np.random.default_rng(5))
    again = pickle.loads(pickle.dumps(transform))(record, np.random.default_rng(5))
    assert out["weak"].dtype == np.uint8
    assert out["strong"].shape == (32, 32, 3)
    assert out["label"] == 3
    np.testing.assert_array_equal(out["strong"], again["strong"])
    other = transform(record, np.random.default_rng(6))
    assert (other["strong"] != out["strong"]).any()


def test_enlarging_happens_half_of_the_time():
    image = picture(16, 16)
    random = np.random.default_rng(0)
    step = images.EnlargeAndCrop()
    kept = sum(step(image, random) is image for _ in range(400))
    assert 160 < kept < 240
