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
from jaxcog.systems.brivl import figures
from jaxcog.systems.brivl.imagination import Inversion
from jaxcog.systems.brivl.presets import preset, tiny_pretraining
from jaxcog.systems.brivl.task import Pretrain
from jaxcog.task import Setting
from jaxcog.training import sharding
from jaxcog.training.program import assemble

DIGITS = Pretrain(
    model=preset("digits"), queue_size=40, augment=False, mask_duplicates=False, block=16
)
DATA = WeakDigits()


def batch(step: int) -> dict[str, np.ndarray]:
    splits = DATA.load()
    arrays = splits.train.source.take(np.arange(8) + 8 * step)
    return splits.train.batch_transform(arrays, np.random.default_rng(step))


def program(task: Pretrain, mesh: Mesh, devices: int):
    experiment = Experiment("brivl", task, DATA, Train(duration="4 steps", batch_size=8), mesh)
    made = sharding.make_mesh(mesh, jax.devices()[:devices])
    return assemble(experiment, DATA.describe(), made)


def run(task: Pretrain, mesh: Mesh, devices: int, steps: int = 3):
    made = program(task, mesh, devices)
    state, values = made.init(made.root_key()), []
    for step in range(steps):
        placed = sharding.place(batch(step), made.batch_shardings, made.batch_struct)
        state, scalars = made.train_step(state, placed, made.root_key())
        values.append(np.asarray(scalars))
    return made, jax.device_get(state), np.array(values)


@pytest.mark.parametrize(
    ("task", "mesh"),
    [
        (dataclasses.replace(DIGITS, contrast="queue"), Mesh(data=4, fsdp=2)),
        (dataclasses.replace(DIGITS, contrast="batch+queue"), Mesh(data=2, fsdp=2, model=2)),
        (dataclasses.replace(DIGITS, contrast="in_batch"), Mesh(data=8)),
        (dataclasses.replace(DIGITS, contrast="sigmoid"), Mesh(data=4, fsdp=2)),
    ],
    ids=lambda value: value.contrast if isinstance(value, Pretrain) else "",
)
def test_eight_devices_learn_what_one_does(task: Pretrain, mesh: Mesh):
    _, one, values = run(task, Mesh(), 1)
    made, many, others = run(task, mesh, 8)
    names = list(made.scalar_names)
    np.testing.assert_allclose(values, others, rtol=2e-3, atol=2e-4, err_msg=str(names))
    if task.with_queue:
        assert one["queue"]["slot"] == many["queue"]["slot"] == 3
        for name in ("image", "text"):
            a, b = (entries(jax.tree.map(jnp.asarray, s["queue"]), name) for s in (one, many))
            np.testing.assert_allclose(a, b, atol=2e-4)
        spec = made.state_shardings["queue"]["text"].spec
        assert spec == jax.sharding.PartitionSpec(None, ("data", "fsdp"))


def test_the_compiled_step_gathers_queries_and_never_the_queue():
    task = dataclasses.replace(DIGITS, contrast="queue", queue_size=4000)
    made = program(task, Mesh(data=8), 8)
    text = made.lower_train_step().compile().as_text()
    gathered = [line for line in text.splitlines() if " all-gather(" in line]
    assert gathered
    assert not any("[500,8," in line or "[4000," in line for line in gathered)


def test_momentum_towers_start_as_copies_and_follow_slowly():
    made = program(DIGITS, Mesh(), 1)
    state = made.init(made.root_key())
    elsewhere = jax.tree.map(lambda x: x + 1.0, state["momentum"]["params"])
    state["momentum"]["params"] = elsewhere  # as after an import: not what it will be
    start = jax.device_get(state["params"])
    for step in range(2):
        placed = sharding.place(batch(step), made.batch_shardings, made.batch_struct)
        before = jax.device_get(state)
        state, _ = made.train_step(state, placed, made.root_key())
        slow = jax.device_get(state["momentum"]["params"])
        if step == 0:
            jax.tree.map(np.testing.assert_array_equal, slow, start)
    kernel = slow["image"]["fc1"]["kernel"]
    new = before["params"]["image"]["fc1"]["kernel"]
    held = before["momentum"]["params"]["image"]["fc1"]["kernel"]
    np.testing.assert_allclose(kernel, 0.99 * held + 0.01 * new, atol=1e-6)


def test_a_shared_trunk_changes_nothing_without_dropout():
    bert = dataclasses.replace(preset("tiny").bert, dropout=0.0)
    quiet = dataclasses.replace(preset("tiny"), dropout=0.0, bert=bert)
    task = dataclasses.replace(tiny_pretraining(), model=quiet, augment=False)
    runs = [run(dataclasses.replace(task, share_trunk=share), Mesh(), 1) for share in (True, False)]
    np.testing.assert_allclose(runs[0][2], runs[1][2], rtol=1e-4, atol=1e-5)
    shared, apart = (state["momentum"]["params"]["text"]["backbone"] for _, state, _ in runs)
    assert "embeddings" not in shared
    assert "embeddings" in apart


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


def test_predict_makes_features_matches_and_pictures():
    quick = Inversion(steps=4, frames=2, jitter=1)
    task = dataclasses.replace(DIGITS, contrast="in_batch", inversion=quick)
    made = program(task, Mesh(), 1)
    state = made.init(made.root_key())
    image = np.full((20, 30, 3), 120, np.uint8)
    shown = made.task.predict(state, [image, "zero\nunit 3\n"], ["a.png", "words.txt"])
    titles = [figure.title for figure in shown]
    assert titles[:3] == ["Features", "Retrieval", "Imagined"]
    assert "Units, update by update" in titles
    animation = shown[titles.index("Imagined, update by update")]
    assert animation.frames.shape == (2, 96, 96, 3)


def test_the_report_shows_retrieval_and_class_names_as_pictures():
    task = dataclasses.replace(DIGITS, contrast="in_batch")
    made = program(task, Mesh(), 1)
    state = made.init(made.root_key())
    rows = DATA.load().evaluation["test"].source.take(np.arange(12))
    results = {"test": made.task.eval_step(state, rows)}
    draw = figures.report(DATA.describe(), task.model, Inversion(steps=4, frames=2))
    titles = [figure.title for figure in draw(state, {"test": rows}, results)]
    assert titles[0] == "Text to image"
    assert "What the names look like to the network" in titles
