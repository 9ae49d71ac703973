from __future__ import annotations

import numpy as np
import pytest

from jaxcog.data.toy.scenes import Scenes
from jaxcog.errors import ConfigError


def arrays(stream):
    return stream.source.arrays


def test_the_same_seed_gives_the_same_scenes_and_more_training_no_other_test():
    first, again = (Scenes(train=6, test=4).load() for _ in range(2))
    more, other = Scenes(train=8, test=4).load(), Scenes(train=6, test=4, seed=1).load()
    for name in ("image", "label"):
        test = arrays(first.evaluation["test"])[name]
        np.testing.assert_array_equal(arrays(first.train)[name], arrays(again.train)[name])
        np.testing.assert_array_equal(test, arrays(more.evaluation["test"])[name])
        assert (test != arrays(other.evaluation["test"])[name]).any()


def test_large_and_small_objects_look_alike_at_each_pixel():
    data = Scenes(train=60, test=1).load()
    image, label = (arrays(data.train)[name] for name in ("image", "label"))
    for colour in range(3):
        large, small = (image[label == i + colour].mean(0) for i in (1, 4))
        np.testing.assert_allclose(large, small, atol=0.06)
        assert np.argmax(large) == colour
    assert data.info.num_classes == 7


def test_two_scenes_of_one_look_have_other_classes():
    """Without the patch, a half's class cannot be told: both bits occur with the same look."""
    data = Scenes("context", size=48, train=40, test=1).load()
    image, label = (arrays(data.train)[name] for name in ("image", "label"))
    bits = [int(np.median(one[one < 4]) >= 2) for one in label]
    assert 8 < sum(bits) < 32
    for one, classes, bit in zip(image, label, bits, strict=True):
        assert np.sign(one[..., 2].sum()) == (1 if bit else -1)
        stuff = classes[classes < 4]
        assert set(np.unique(stuff)) == {2 * bit, 2 * bit + 1}
    assert data.info.facts["stuff"] == (0, 1, 2, 3)


def test_bad_sizes_are_named():
    with pytest.raises(ConfigError, match="size=20 must be at least 48"):
        Scenes(size=20)
