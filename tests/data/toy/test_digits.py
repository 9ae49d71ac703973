"""The digit tasks have the sizes, statistics and order that they promise."""

from __future__ import annotations

import numpy as np
import pytest

from jaxcog.data import pipeline
from jaxcog.data.toy import digits
from jaxcog.errors import ConfigError


def assert_described(config, splits):
    info = config.describe()
    assert splits.info == info
    batches = pipeline.train_batches(splits.train, batch_size=48, seed=0, start_step=0, stop_step=1)
    arrays = next(batches).arrays
    several = not hasattr(splits.train, "source")
    streams = [(arrays[n], info.element[n]) for n in info.element] if several else None
    for batch, element in streams or [(arrays, info.element)]:
        assert {n: (v.shape[1:], v.dtype) for n, v in batch.items()} == {
            n: (s.shape, s.dtype) for n, s in element.items()
        }
    for stream in splits.evaluation.values():
        record = stream.source[0]
        element = info.eval_element or info.element
        assert {n: (np.shape(v), v.dtype) for n, v in record.items()} == {
            n: (s.shape, s.dtype) for n, s in element.items()
        }
    biggest = pipeline.fingerprint(splits.train, seed=0, batch_size=1)["examples"]
    assert info.num_examples == max(biggest.values())


@pytest.mark.parametrize(
    "config",
    [
        digits.DigitsDomains(),
        digits.DigitsDomains(target="c", sampler="domains", polarity=True),
        digits.DigitsSemi(),
        digits.DigitsRotated(),
    ],
)
def test_what_is_described_is_loaded(config):
    assert_described(config, config.load())


def test_domains_have_their_colours_and_sizes():
    splits = digits.DigitsDomains(target="b", seed=3).load()
    train = splits.train.source.arrays
    np.testing.assert_array_equal(np.bincount(train["domain"]), [450, 450, 450])
    assert len(splits.evaluation["test"].source) == 447
    assert set(splits.evaluation["test"].source.arrays["domain"]) == {3}
    assert splits.info.facts["domains"] == ("a", "c", "d", "b")
    images = {i: train["image"][train["domain"] == i] for i in range(3)}
    images[3] = splits.evaluation["test"].source.arrays["image"]
    for i, name in enumerate(splits.info.facts["domains"]):
        # The corner of a digit is almost always empty: it shows the offset.
        np.testing.assert_allclose(
            images[i][:, 0, 0].mean(0) / 2 + 0.5, digits.DOMAINS[name][1], atol=0.02
        )
    again = digits.DigitsDomains(target="b", seed=3).load().train.source.arrays
    np.testing.assert_array_equal(train["image"], again["image"])
    other = digits.DigitsDomains(target="b", seed=4).load().train.source.arrays
    assert (other["label"] != train["label"]).any()


def test_polarity_turns_only_the_target():
    plain = digits.DigitsDomains(target="a").load()
    turned = digits.DigitsDomains(target="a", polarity=True).load()
    np.testing.assert_array_equal(
        plain.train.source.arrays["image"], turned.train.source.arrays["image"]
    )
    corner = turned.evaluation["test"].source.arrays["image"][:, 0, 0].mean()
    assert corner > 0.9


def test_semi_supervised_counts_and_views():
    splits = digits.DigitsSemi(target="d", per_class=4).load()
    labelled = splits.train["labelled"].source.arrays
    cells = labelled["domain"] * 10 + labelled["label"]
    np.testing.assert_array_equal(np.bincount(cells), np.full(30, 4))
    assert len(splits.train["unlabelled"].source) == 1350 - 120
    batch = next(
        pipeline.train_batches(splits, batch_size=48, seed=0, start_step=0, stop_step=1)
    ).arrays
    for name in ("labelled", "unlabelled"):
        np.testing.assert_array_equal(batch[name]["domain"], np.repeat([0, 1, 2], 16))
        zeros = (batch[name]["strong"] == 0).all(-1).sum((1, 2))
        assert zeros.max() == 36
        assert zeros.min() >= 9
        assert (batch[name]["weak"] != 0).any(-1).all()


def test_shift_moves_whole_images():
    images = np.random.default_rng(0).normal(size=(20, 16, 16, 3)).astype(np.float32)
    moved = digits.shift(images, 1, np.random.default_rng(1))
    found = set()
    for image, other in zip(images, moved, strict=True):
        fits = [
            (y, x)
            for y in (-1, 0, 1)
            for x in (-1, 0, 1)
            if (image[1 + y : 15 + y, 1 + x : 15 + x] == other[1:15, 1:15]).all()
        ]
        assert len(fits) == 1
        found.update(fits)
    assert len(found) > 5


def test_enlarging_is_bilinear():
    image = np.arange(8.0)[None, None, :] * np.ones((1, 8, 1))
    expected = np.clip((np.arange(16) + 0.5) / 2 - 0.5, 0, 7)
    np.testing.assert_allclose(digits.enlarge(image)[0], np.tile(expected, (16, 1)))
    np.testing.assert_allclose(digits.enlarge(image.swapaxes(1, 2))[0, :, 0], expected)


def test_rotated_digits():
    splits = digits.DigitsRotated(seed=1).load()
    query, database = (splits.evaluation[n].source.arrays for n in ("query", "database"))
    assert len(query["label"]) == 400
    assert len(database["label"]) == 6788
    np.testing.assert_array_equal(splits.train.source.arrays["image"], database["image"][:1200])
    everything = np.concatenate([query["label"], database["label"]])
    assert len(np.unique(everything)) == 40
    images = np.concatenate([query["image"], database["image"]])[..., 0]
    upright = np.sort(images[everything < 10].sum(0))
    turned = np.sort(np.rot90(images[everything // 10 == 1].sum(0), -1))
    np.testing.assert_allclose(upright, turned)


def test_unknown_target_is_named():
    with pytest.raises(ConfigError, match=r'data.target="z"'):
        digits.DigitsDomains(target="z")
