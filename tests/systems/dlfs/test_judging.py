"""Metrics on cases worked out by hand, what a task refuses, and pictures of a small model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxcog import experiments
from jaxcog.config import override
from jaxcog.errors import CheckpointError, ConfigError
from jaxcog.show import Animation, Gallery
from jaxcog.systems.dlfs import judging, metrics
from jaxcog.training import checkpoint, sharding, start
from jaxcog.training.program import Program, assemble
from jaxcog.training.progress import Silent


def test_frechet_distance_of_known_distributions():
    random = np.random.default_rng(0)
    a = random.normal(size=(4000, 3))
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(a, a + np.array([3, 0, 4])) == pytest.approx(25)
    wide = metrics.frechet_distance(a, 2 * a)  # means nearly 0, covariances 1 and 4
    assert wide == pytest.approx(3 * (2 - 1) ** 2, rel=0.1)
    with pytest.raises(ValueError, match="at least 2"):
        metrics.frechet_distance(a[:1], a)


def test_kid_is_unbiased_at_zero():
    random = np.random.default_rng(0)
    near = [metrics.kid(*random.normal(size=(2, 200, 4))) for _ in range(20)]
    assert abs(np.mean(near)) < 0.02
    assert metrics.kid(random.normal(size=(200, 4)), 1 + random.normal(size=(200, 4))) > 1


def test_ages_and_identities():
    assert metrics.verification_rate(np.array([0.1, 0.9, 0.8, 0.7]), 0.75) == 50
    found = metrics.age_errors(np.array([4.0, 6.0, 50.0]), np.array([0, 0, 1]), [(0, 8), (30, 39)])
    assert found["age_error"] == pytest.approx((1 + 15.5) / 2)
    assert found["in_class"] == pytest.approx(200 / 3)


def test_measures_against_the_truth():
    """A perfect model, and one that changes nothing."""
    random = np.random.default_rng(0)
    truth = random.uniform(-1, 1, (6, 2, 4, 4, 3)).astype(np.float32)
    truth[:, 1] = 0.2 * truth[:, 1] - 0.8
    label = np.array([0, 1] * 3)
    image = truth[np.arange(6), label]
    perfect = judging.against_truth({"made": truth, "truth": truth, "image": image, "label": label})
    assert perfect == {"l1_ratio": 0, "ink_ratio": 0, "retrieval": 1}
    still = np.repeat(image[:, None], 2, axis=1)
    same = judging.against_truth({"made": still, "truth": truth, "image": image, "label": label})
    assert same["l1_ratio"] == pytest.approx(1)
    assert same["ink_ratio"] == pytest.approx(1)


TINY = experiments.load("dlfs/digits").experiment(tiny=True)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"task.discriminator_layers": 3}, "set it to log2"),
        ({"task.objective.weights.adult": (4,)}, "positions in the 3 classes"),
        ({"train.batch_size": 64}, "r1-reference-batch"),
        ({"task.traversal_step": 0.0}, "traversal_step"),
        ({"task.generator_optimizer.accumulate": 2}, "accumulate"),
        ({"task.objective.ema": 1.0}, "objective.ema"),
    ],
)
def test_bad_input(changes: dict, why: str):
    with pytest.raises(ConfigError, match=why):
        assembled(changes)


def assembled(changes: dict) -> object:
    experiment = override(TINY, changes)
    mesh = sharding.abstract_mesh(TINY.mesh, 1)
    return assemble(experiment, experiment.data.describe(), mesh)


def test_other_data_is_refused():
    data = experiments.load("mixstyle/digits").experiment().data
    with pytest.raises(ConfigError, match="pairs"):
        assemble(TINY, data.describe(), sharding.abstract_mesh(TINY.mesh, 1))


@pytest.fixture(scope="module")
def program() -> Program:
    return assemble(TINY, TINY.data.describe(), sharding.make_mesh(TINY.mesh, jax.devices()[:1]))


@pytest.fixture(scope="module")
def state(program: Program) -> Any:
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), program.state_struct)


def test_a_checkpoint_with_another_order_of_classes(program: Program, state: Any, tmp_path: Path):
    """Strips and films show the classes in order: another order is named, with the remedy."""
    splits = TINY.data.load()
    meta = start.fresh_meta(program, splits)
    backwards = {**meta, "classes": meta["classes"][::-1]}
    checkpoint.save_tree(tmp_path, state, backwards, step=1)
    saved = checkpoint.Checkpoints(tmp_path / "checkpoints", keep_last=1, best=None)
    with pytest.raises(CheckpointError) as error:
        start.begin(program, splits, saved, Silent())
    saved.close()
    assert "differ from class 0 on (['thick'] there, ['thin'] here)" in str(error.value)
    assert "use the same data, or train anew" in str(error.value)


def test_predictions_are_strips_and_films(program: Program, state: Any):
    task = dataclasses.replace(TINY.task, traversal_step=0.5).build(program.setting)
    photo = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    strip, film = task.predict(state, [photo], ["a/face.png"])
    assert isinstance(strip, Gallery)
    assert [p.caption for p in strip.rows[0][1]] == ["input", "thin", "medium", "thick"]
    assert isinstance(film, Animation)
    assert film.frames.shape == (5, 16, 16, 3)
