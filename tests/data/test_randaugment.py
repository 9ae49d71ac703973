from __future__ import annotations

import numpy as np
import pytest

from jaxcog.data.randaugment import FIXMATCH_OPS, Cutout, RandAugmentFixMatch, apply_op, cutout

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.mark.parametrize("name", FIXMATCH_OPS)
def test_every_operation_keeps_shape_and_input(name):
    before = IMAGE.copy()
    for magnitude in FIXMATCH_OPS[name]:
        result = apply_op(IMAGE, name, magnitude)
        assert result.shape == IMAGE.shape
        assert result.dtype == np.uint8
    np.testing.assert_array_equal(IMAGE, before)


def test_translation_is_by_a_part_of_the_size():
    moved = apply_op(IMAGE, "TranslateX", 0.2)
    np.testing.assert_array_equal(moved[:, :24], IMAGE[:, 6:])
    assert (moved[:, 24:] == 0).all()


def test_unknown_operation():
    with pytest.raises(ValueError, match="Invert"):
        apply_op(IMAGE, "Invert", 0)


def test_two_operations_from_one_generator():
    step = RandAugmentFixMatch()
    results = [step(IMAGE, np.random.default_rng(seed)) for seed in range(8)]
    np.testing.assert_array_equal(results[0], step(IMAGE, np.random.default_rng(0)))
    assert len({result.tobytes() for result in results}) > 4


def test_cutout_is_clipped_at_the_edges():
    bright = np.full((20, 30, 3), 255, np.uint8)
    assert (cutout(bright, 0, 0, 16) == 0).sum() == 8 * 8 * 3
    assert (cutout(bright, 10, 15, 16) == 0).sum() == 16 * 16 * 3
    assert (Cutout(16)(bright, np.random.default_rng(0)) == 0).any()
