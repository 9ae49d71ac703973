"""Batch composition, epoch ends, and the same batches whoever asks, in whatever order."""

from __future__ import annotations

import functools
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jaxcog.data import samplers
from jaxcog.errors import DataError

# Three domains of 37, 23 and 31 images, as in the reference's example epochs.
DOMAINS = np.repeat([0, 1, 2], [37, 23, 31])
IDENTITIES = np.random.default_rng(0).permutation(np.repeat(np.arange(12), np.arange(1, 13)))

SAMPLERS = {
    "uniform": lambda seed: samplers.Uniform(91, 8, seed),
    "sequential": lambda seed: samplers.Sequential(91, 8, seed),
    "random domain": lambda seed: samplers.RandomDomain(91, 8, seed, domains=DOMAINS),
    "seq domain": lambda seed: samplers.SeqDomain(91, 12, seed, domains=DOMAINS),
    "pk": lambda seed: samplers.PK(78, 8, seed, identities=IDENTITIES, per_identity=2),
}


def first_epoch(sampler):
    return np.stack([sampler.indices(step) for step in range(sampler.steps_per_epoch)])


@pytest.mark.parametrize("kind", SAMPLERS)
def test_indices_depend_on_seed_and_step_alone(kind):
    steps = [*range(40)]
    whole = [SAMPLERS[kind](3).indices(step) for step in steps]
    backwards = SAMPLERS[kind](3)
    for step in reversed(steps):
        np.testing.assert_array_equal(backwards.indices(step), whole[step])
    copied = pickle.loads(pickle.dumps(backwards))
    np.testing.assert_array_equal(copied.indices(17), whole[17])
    if kind != "sequential":
        assert any((SAMPLERS[kind](4).indices(s) != whole[s]).any() for s in steps)


@pytest.mark.parametrize("kind", ["uniform", "random domain", "seq domain"])
def test_no_record_twice_in_an_epoch_and_a_new_order_in_the_next(kind):
    sampler = SAMPLERS[kind](0)
    epoch = first_epoch(sampler)
    assert len(np.unique(epoch)) == epoch.size
    later = sampler.indices(sampler.steps_per_epoch)
    assert (later != epoch[0]).any()


def test_large_sets_are_shuffled_without_a_permutation():
    size = samplers._WHOLE_EPOCH_LIMIT + 1
    sampler = samplers.Uniform(size, 64, seed=1)
    seen = np.concatenate([sampler.indices(step) for step in range(4)])
    assert len(np.unique(seen)) == 256
    assert seen.min() >= 0
    assert seen.max() < size
    assert abs(seen.mean() / size - 0.5) < 0.1
    assert not sampler._epoch.kept
    assert (samplers.Uniform(size, 64, seed=2).indices(0) != sampler.indices(0)).any()


def reference_epochs(request):
    path = Path(request.config.getoption("--golden")) / "mixstyle__samplers.npz"
    if not path.exists():
        pytest.skip(f"{path.name} is not in the folder of golden files")
    return np.load(path)


def composition(domains, epoch, blocks):
    return [[tuple(np.unique(part)) for part in np.split(domains[row], blocks)] for row in epoch]


def test_random_domain_follows_the_reference(request):
    golden = reference_epochs(request)
    domains = golden["in/domains"]
    np.testing.assert_array_equal(domains, DOMAINS)
    lengths = []
    for seed in range(200):
        epoch = first_epoch(samplers.RandomDomain(91, 8, seed, domains=domains))
        lengths.append(len(epoch))
        check_random_domain_epoch(domains, epoch)
    check_random_domain_epoch(domains, golden["out/random_domain_idx"])
    expected = golden["out/random_domain_batches_hist"] / 200
    found = np.bincount(lengths, minlength=len(expected)) / 200
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, atol=0.12)
    steps = np.arange(len(expected))
    assert abs(found @ steps - expected @ steps) < 0.35


def check_random_domain_epoch(domains, epoch):
    left = Counter(domains.tolist())
    for i, row in enumerate(epoch):
        first, second = domains[row[:4]], domains[row[4:]]
        assert len(set(first)) == len(set(second)) == 1
        assert first[0] != second[0]
        left.subtract(domains[row].tolist())
        ended = left[first[0]] < 4 or left[second[0]] < 4
        assert ended == (i == len(epoch) - 1)


def test_seq_domain_follows_the_reference(request):
    golden = reference_epochs(request)
    sampler = samplers.SeqDomain(91, 12, 0, domains=golden["in/domains"])
    epoch = first_epoch(sampler)
    assert epoch.shape == golden["out/seq_domain_idx"].shape
    for rows in (epoch, golden["out/seq_domain_idx"]):
        np.testing.assert_array_equal(DOMAINS[rows], np.tile(np.repeat([0, 1, 2], 4), (5, 1)))


def test_all_domains_are_drawn_alike():
    sampler = samplers.RandomDomain(91, 8, 0, domains=DOMAINS)
    drawn = np.concatenate([DOMAINS[sampler.indices(s)][::4] for s in range(600)])
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), 1 / 3, atol=0.05)


def test_pk_batches_hold_identities_in_blocks():
    sampler = samplers.PK(78, 8, 0, identities=IDENTITIES, per_identity=2)
    used = Counter()
    for row in first_epoch(sampler):
        blocks = IDENTITIES[row].reshape(4, 2)
        assert (blocks[:, 0] == blocks[:, 1]).all()
        assert len(set(blocks[:, 0])) == 4
        used.update(row.tolist())
    repeated = {i for i, count in used.items() if count > 1}
    assert set(IDENTITIES[list(repeated)]) <= {0}


def test_substitutes_are_of_the_same_group():
    sampler = samplers.SeqDomain(91, 12, 0, domains=DOMAINS)
    np.testing.assert_array_equal(sampler.substitutes(45), np.arange(37, 60))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (functools.partial(samplers.Uniform, 0, 4), "empty"),
        (functools.partial(samplers.Uniform, 3, 4), "3 examples do not fill one batch of 4"),
        (functools.partial(samplers.RandomDomain, 91, 9, domains=DOMAINS), "use a multiple of 2"),
        (
            functools.partial(samplers.RandomDomain, 91, 8, domains=DOMAINS, per_batch=4),
            "4 domains a batch, but the data has 3",
        ),
        (
            functools.partial(samplers.RandomDomain, 91, 48, domains=DOMAINS),
            "domain 1 has 23 examples, a batch takes 24",
        ),
        (functools.partial(samplers.SeqDomain, 91, 10, domains=DOMAINS), "over 3 domains"),
        (functools.partial(samplers.PK, 78, 9, identities=IDENTITIES), "no multiple of 4"),
        (
            functools.partial(samplers.PK, 78, 52, identities=IDENTITIES),
            "13 identities x 4 examples, but the data has 12",
        ),
    ],
)
def test_what_cannot_be_sampled_is_an_error(make, problem):
    with pytest.raises(DataError, match=problem):
        make(0)
