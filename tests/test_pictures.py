"""Pixels there and back, and chunks of one size."""

from __future__ import annotations

import numpy as np

from jaxcog.pictures import IMAGENET, Scale, in_chunks, rgb


def test_normalised_pixels_come_back():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    for facts in ({}, {"mean": (0.5,) * 3, "std": (0.25,) * 3}, {"mean": 0.1, "std": 2.0}):
        scale = Scale.of(facts)
        images = scale.normalised(pixels / np.float32(255))
        assert images.dtype == np.float32
        np.testing.assert_array_equal(scale.rgb(images), pixels)
    np.testing.assert_allclose(Scale.of({}).mean, IMAGENET[0], rtol=1e-6)


def test_grey_becomes_three_channels_and_is_clipped():
    shown = rgb(np.array([[[-1.0], [0.5], [2.0]]]))
    np.testing.assert_array_equal(shown, [[[0] * 3, [128] * 3, [255] * 3]])


def test_chunks_have_one_size_and_padding_is_dropped():
    shapes = []

    def encode(rows):
        shapes.append(rows.shape)
        return rows.sum(axis=1)

    rows = np.arange(14).reshape(7, 2)
    np.testing.assert_array_equal(in_chunks(encode, rows, 3), rows.sum(axis=1))
    assert shapes == [(3, 2)] * 3
