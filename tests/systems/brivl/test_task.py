"""Pre-training: on one device and on eight, with every kind of contrast."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.config import Experiment, Mesh, Train
from jaxcog.data.toy.weak_pairs import WeakDigits
from jaxcog.errors import ConfigError
from jaxcog.nn.queue import entries
from jaxcog.systems.brivl.imagination import Inversion
from jaxcog.systems.brivl.presets import preset, tiny_pretraining
from jaxcog.systems.brivl.task import Pretrain, augmented, prepared
from jaxcog.task import Setting
from jaxcog.training import sharding
from jaxcog.training.program import assemble

SMALL = dataclasses.replace(preset("digits"), fusion_ff=16, embed_dim=16, mlp_hidden=16)
DIGITS = Pretrain(model=SMALL, queue_size=40, augment=False, block=16)
DATA = WeakDigits()


def batch(step: int) -> dict[str, np.ndarray]:
    splits = DATA.load()
    arrays = splits.train.source.take(np.arange(8) + 8 * step)
    return splits.train.batch_transform(arrays, np.random.default_rng(step))


def program(task: Pretrain, mesh: Mesh, devices: int):
    experiment = Experiment("brivl", task, DATA, Train(duration="4 steps", batch_size=8), mesh)
    made = sharding.make_mesh(mesh, jax.devices()[:devices])
    return assemble(experiment, DATA.describe(), made)


def run(made, start, steps: int = 3):
    """What it learns from a host's copy of a first state."""
    state, values = jax.device_put(start, made.state_shardings), []
    for step in range(steps):
        placed = sharding.place(batch(step), made.batch_shardings, made.batch_struct)
        state, scalars = made.train_step(state, placed, made.root_key())
        values.append(np.asarray(scalars))
    return jax.device_get(state), np.array(values)


@pytest.fixture(scope="module")
def alone():
    """(the step on one device, compiled once; a state on the host)."""
    made = program(DIGITS, Mesh(), 1).compiled()[0]
    return made, some_state(made)


def some_state(made):
    """Random weights and keys, with nothing to compile; all else is zero."""
    random = np.random.default_rng(0)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), made.state_struct)
    for part in ("params", "momentum", "queue"):
        state[part] = jax.tree.map(
            lambda x: random.normal(0, 0.3, x.shape).astype(x.dtype) if x.ndim else x, state[part]
        )
    return state


def check_devices(one, many, start):
    """Both learn the same, of the same queue, which lies split over the mesh."""
    states, values = zip(*(run(made, start) for made in (one, many)), strict=True)
    names = str(one.scalar_names)
    np.testing.assert_allclose(*values, rtol=2e-3, atol=2e-4, err_msg=names)
    if not many.experiment.task.with_queue:
        return
    assert [state["queue"]["slot"] for state in states] == [3, 3]
    for name in ("image", "text"):
        a, b = (entries(jax.tree.map(jnp.asarray, state["queue"]), name) for state in states)
        np.testing.assert_allclose(a, b, atol=2e-4)
    spec = many.state_shardings["queue"]["text"].spec
    assert spec == jax.sharding.PartitionSpec(None, ("data", "fsdp"))


def test_eight_devices_learn_what_one_does_and_never_gather_the_queue(alone):
    many = program(DIGITS, Mesh(data=2, fsdp=2, model=2), 8).compiled()[0]
    check_devices(alone[0], many, alone[1])
    text = many.train_step.as_text()
    gathered = [line for line in text.splitlines() if " all-gather(" in line]
    assert gathered
    assert not any("f32[5,8," in line or "f32[40," in line for line in gathered)


@pytest.mark.slow  # the loss alone is compared on eight devices in test_losses.py
@pytest.mark.parametrize(
    ("contrast", "mesh"),
    [
        ("batch+queue", Mesh(data=4, fsdp=2)),
        ("in_batch", Mesh(data=8)),
        ("sigmoid", Mesh(data=4, fsdp=2)),
    ],
)
def test_eight_devices_learn_what_one_does_with_other_contrast(contrast: str, mesh: Mesh):
    task = dataclasses.replace(DIGITS, contrast=contrast)
    one = program(task, Mesh(), 1)
    check_devices(one, program(task, mesh, 8), jax.device_get(one.init(one.root_key())))


def test_momentum_towers_start_as_copies_and_follow_slowly(alone):
    made, start = alone
    state = jax.device_put(start, made.state_shardings)
    elsewhere = jax.tree.map(lambda x: x + 1.0, state["momentum"]["params"])
    state["momentum"]["params"] = elsewhere  # as after an import: not what it will be
    for step in range(2):
        placed = sharding.place(batch(step), made.batch_shardings, made.batch_struct)
        before = jax.device_get(state)
        state, _ = made.train_step(state, placed, made.root_key())
        slow = jax.device_get(state["momentum"]["params"])
        if step == 0:
            jax.tree.map(np.testing.assert_array_equal, slow, start["params"])
    kernel = slow["image"]["fc1"]["kernel"]
    new = before["params"]["image"]["fc1"]["kernel"]
    held = before["momentum"]["params"]["image"]["fc1"]["kernel"]
    np.testing.assert_allclose(kernel, 0.99 * held + 0.01 * new, atol=1e-6)


@pytest.mark.slow  # two BERTs to compile
def test_a_shared_trunk_changes_nothing_without_dropout():
    task = tiny_pretraining()
    made = [
        program(dataclasses.replace(task, share_trunk=share), Mesh(), 1) for share in (True, False)
    ]
    (shared, values), (apart, others) = (
        run(each, jax.device_get(each.init(each.root_key()))) for each in made
    )
    np.testing.assert_allclose(values, others, rtol=1e-4, atol=1e-5)
    assert "embeddings" not in shared["momentum"]["params"]["text"]["backbone"]
    assert "embeddings" in apart["momentum"]["params"]["text"]["backbone"]


def test_images_are_learned_in_noise():
    images = jnp.asarray(batch(0)["image"])
    task = dataclasses.replace(DIGITS, noise=0.5)
    noisy = augmented(images, jax.random.key(0), task) - prepared(images)
    levels = jnp.std(noisy, axis=(1, 2, 3))  # each image has its own
    assert float(levels.max()) > 2 * float(levels.min()) > 0
    np.testing.assert_array_equal(augmented(images, jax.random.key(0), DIGITS), prepared(images))


def test_bad_settings_are_named():
    info = DATA.describe()
    setting = Setting(info, 10, 10, 12)
    with pytest.raises(ConfigError, match=r"queue size 40 with train\.batch_size=12.*queue of 36"):
        DIGITS.build(setting)
    other = dataclasses.replace(info, facts={**info.facts, "vocab": 21128})
    with pytest.raises(ConfigError, match=r"21128 tokens and task\.model\.bert\.vocab=103"):
        DIGITS.build(dataclasses.replace(setting, data=other, batch_size=8))
    large = WeakDigits(size=16).describe()
    with pytest.raises(ConfigError, match=r"image_size=8, the data's images are \(16, 16, 3\)"):
        DIGITS.build(dataclasses.replace(setting, data=large, batch_size=8))
    optimizer = dataclasses.replace(DIGITS.optimizer, accumulate=2)
    with pytest.raises(ConfigError, match="a queue takes whole batches"):
        dataclasses.replace(DIGITS, optimizer=optimizer)


def test_pictures_like_the_data_s_need_data_that_can_tell():
    info = DATA.describe()
    facts = {name: value for name, value in info.facts.items() if name != "image_statistics"}
    task = dataclasses.replace(DIGITS, inversion=Inversion(likeness=0.1))
    with pytest.raises(
        ConfigError, match=r"task\.inversion\.likeness=0\.1 needs data.*set it to 0"
    ):
        task.build(Setting(dataclasses.replace(info, facts=facts), 10, 10, 8))


@pytest.fixture(scope="module")
def trained(alone):
    """(task, a state as if it were trained) of data with one class."""
    quick = Inversion(steps=4, frames=2, jitter=1, noise=0.1, draws=2, likeness=0.1)
    info = DATA.describe()
    facts = {**info.facts, "class_ids": info.facts["class_ids"][:1]}
    info = dataclasses.replace(info, class_names=info.class_names[:1], facts=facts)
    task = dataclasses.replace(DIGITS, inversion=quick).build(Setting(info, 10, 10, 8))
    return task, alone[1]


def test_predict_makes_features_matches_and_pictures(trained):
    task, state = trained
    image = np.full((20, 30, 3), 120, np.uint8)
    shown = task.predict(state, [image, "zero\nunit 3\n"], ["a.png", "words.txt"])
    titles = [figure.title for figure in shown]
    assert titles[:3] == ["Features", "Retrieval", "Imagined"]
    assert "Units, update by update" in titles
    animation = shown[titles.index("Imagined, update by update")]
    assert animation.frames.shape == (2, 96, 96, 3)


def test_the_report_shows_retrieval_and_class_names_as_pictures(trained):
    task, state = trained
    rows = DATA.sources()[1].take(np.arange(12))
    results = {"test": jax.jit(task.eval_step)(state, rows)}
    titles = [figure.title for figure in task.figures(state, {"test": rows}, results)]
    assert titles[0] == "Text to image"
    assert "What the names look like to the network" in titles
