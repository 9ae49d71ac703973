"""Person crops, erased rectangles, identity chunks, the generated world."""

from __future__ import annotations

import numpy as np
import pytest

from jaxcog.data.persons import Draw, PersonCrop, erased_rectangle
from jaxcog.data.samplers import IdentityChunks
from jaxcog.data.toy.persons import VOCABULARY, Persons
from jaxcog.errors import ConfigError, DataError

IDENTITIES = np.repeat([3, 5, 8, 9], [9, 3, 4, 1])


def test_crops_move_and_flip_and_are_padded_with_black():
    crop = PersonCrop((8, 4), mean=(0, 0, 0), std=(1, 1, 1), pad=2)
    image = np.arange(8 * 4 * 3, dtype=np.uint8).reshape(8, 4, 3)
    np.testing.assert_allclose(crop(image), image / 255, atol=1e-7)
    same = crop(image, Draw(flip=True, top=2, left=2))
    np.testing.assert_allclose(same, image[:, ::-1] / 255, atol=1e-7)
    moved = crop(image, Draw(top=0, left=2))
    assert not moved[:2].any()
    np.testing.assert_allclose(moved[2:], image[:6] / 255, atol=1e-7)


def test_erased_rectangles_hold_the_mean_after_normalising_unless_told_otherwise():
    crop = PersonCrop((8, 4), mean=(0.25, 0.5, 0.75), std=(1, 1, 1), pad=0)
    image = np.zeros((8, 4, 3), np.uint8)
    draw = Draw(erase=(1, 1, 3, 2))
    np.testing.assert_allclose(crop(image, draw)[1:4, 1:3], np.full((3, 2, 3), crop.mean))
    assert not PersonCrop(crop.size, crop.mean, crop.std, 0, fill=0)(image, draw)[1:4, 1:3].any()
    random = np.random.default_rng(0)
    for _ in range(50):
        row, column, height, width = erased_rectangle((64, 32), random)
        assert row + height <= 64
        assert column + width <= 32


def test_an_epoch_of_identity_chunks():
    sampler = IdentityChunks(17, 8, 0, identities=IDENTITIES, per_identity=4)
    rows = np.stack([sampler.indices(step) for step in range(sampler.steps_per_epoch)])
    people = IDENTITIES[rows].reshape(len(rows), 2, 4)
    assert (people == people[..., :1]).all()
    assert (people[:, 0, 0] != people[:, 1, 0]).all()
    three = rows[IDENTITIES[rows] == 5]
    if len(three):
        assert sorted(np.unique(three, return_counts=True)[1].tolist()) == [2, 2]
    np.testing.assert_array_equal(sampler.indices(1), sampler.indices(1))


def test_balanced_chunks_leave_nothing_out():
    order, last = np.arange(17), lambda left: left[-2:]
    plain, balanced = (
        IdentityChunks(17, 8, 0, identities=IDENTITIES, per_identity=4, balanced=b)
        for b in (False, True)
    )
    assert plain.drawn(order, last)[0, :4].tolist() == [12, 13, 14, 15]
    assert plain.drawn(order, last)[1, 4:].tolist() == [9, 9, 10, 10]
    assert balanced.drawn(order, last)[1, 4:].tolist() == [9, 10, 11, 9]
    with pytest.raises(DataError, match="no multiple of 3"):
        IdentityChunks(17, 8, 0, identities=IDENTITIES, per_identity=3)
    with pytest.raises(DataError, match="but the data has 4 identities"):
        IdentityChunks(17, 20, 0, identities=IDENTITIES, per_identity=4)


def test_the_generated_world_says_what_it_shows():
    splits = Persons(persons=5, test_persons=4, train_words="first", test_words="second").load()
    source = splits.train.source
    assert len(source) == splits.info.num_examples == 30
    words = np.unique(source.arrays["words"])
    colours = {VOCABULARY[i - 1] for i in words if i > 0} & {"red", "scarlet", "navy", "blue"}
    assert colours <= {"red", "blue"}
    test = splits.evaluation["test"].source.arrays
    assert test["words"].shape == (8, 2, 12)
    related = Persons(table="related").describe().facts["word_table"]
    red, scarlet = related[1 + VOCABULARY.index("red")], related[1 + VOCABULARY.index("scarlet")]
    assert np.corrcoef(red, scarlet)[0, 1] > 0.8
    with pytest.raises(ConfigError, match=r"data.size=9"):
        Persons(size=9)
