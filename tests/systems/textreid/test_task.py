"""The task: what it refuses, training over a mesh, checkpoints of others, searching."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog import experiments, runs
from jaxcog.config import override
from jaxcog.data.toy.persons import Persons
from jaxcog.errors import CheckpointError, ConfigError, DataError
from jaxcog.interop.importer import import_checkpoint
from jaxcog.nn.clip_resnet import ClipSize, resize_pos_embed
from jaxcog.show import File, Gallery, Table
from jaxcog.systems.textreid.model import Textual, Visual
from jaxcog.systems.textreid.momentum import Momentum
from jaxcog.systems.textreid.task import Losses, PersonSearch, small_search
from jaxcog.task import DataInfo, Setting
from jaxcog.training import start
from jaxcog.trees import by_path

DATA = Persons(persons=12, test_persons=8)
SETTING = Setting(DATA.describe(), steps=4, steps_per_epoch=4, batch_size=16)


def with_facts(**facts: Any) -> Setting:
    data = SETTING.data
    return dataclasses.replace(
        SETTING, data=dataclasses.replace(data, facts={**data.facts, **facts})
    )


@pytest.mark.parametrize(
    ("changes", "setting", "message"),
    [
        ({}, with_facts(word_width=None), r'words="given" needs word vectors: .*data.word_table'),
        ({}, with_facts(vocabulary_size=30), r"data.word_table is \[23, 24\].*has 30 ids"),
        ({"task.textual.words": "learned", "task.textual.rows": 9}, SETTING, r"rows=9: .*has 23"),
        ({"task.textual.kind": "transformer"}, SETTING, r'reads bpe.*set data.tokens to "bpe"'),
        ({"task.momentum.queue": 40}, SETTING, r"queue size 40 with train.batch_size=16"),
        ({"task.visual.name": "RN50", "task.visual.last_stride": 2}, SETTING, "multiples of 32"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], setting: Setting, message: str):
    experiment = override(experiments.load("textreid/persons").experiment(tiny=True), changes)
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(experiment.task.build(setting).init, jax.random.key(0))


def test_options_that_exclude_each_other():
    small = small_search(Momentum(queue=32))
    with pytest.raises(ConfigError, match="a queue takes whole batches"):
        override(small, {"optimizer.accumulate": 2})
    with pytest.raises(ConfigError, match="small has none"):
        override(small, {"momentum.official_reinit": True})
    with pytest.raises(ConfigError, match="must not be negative: align"):
        Losses(align=-1)
    lacking = dataclasses.replace(SETTING, data=DataInfo({"image": 0}, 1))
    with pytest.raises(ConfigError, match="the data lacks length, person, words"):
        small.build(lacking)


def test_another_vocabulary_is_no_way_to_go_on():
    splits = DATA.load()
    meta = {"facts": {"vocabulary": ["hat", "tie"], "vocabulary_size": 3}}
    message = (
        r"another vocabulary than .*2 entries there, 22 here, entry 1 is 'tie' there and 'coat'"
    )
    with pytest.raises(CheckpointError, match=message):
        start.check_facts(meta, splits)
    start.check_facts({"facts": {"vocabulary_size": 23}}, splits)


@pytest.mark.slow
def test_training_over_a_mesh_is_training_on_one_device():
    """Losses, queue and key encoders, for every optional term at once."""
    experiment = override(
        experiments.load("textreid/persons").experiment(tiny=True),
        {"task.losses": Losses(sdm=1.0, itc=1.0, same_person=0.3), "train.duration": "2 steps"},
    )
    splits, found = experiment.data.load(), []
    batches = None
    for devices in (jax.devices()[:1], jax.devices()):
        program = start.assemble_for(experiment, splits, devices)
        state, key = program.init(program.root_key()), program.root_key()
        if batches is None:
            source = splits.train.source
            rows = [program.setting.batch_size * i + np.arange(16) for i in range(2)]
            batches = [source.take(r) for r in rows]
        for batch in batches:
            placed = jax.device_put(dict(batch), program.batch_shardings)
            state, scalars = program.train_step(state, placed, key)
        parts = {name: state[name] for name in ("queue", "keys")}
        found.append((np.asarray(scalars), by_path(jax.device_get(parts)), state))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=2e-4)
    for name, value in found[0][1].items():
        np.testing.assert_allclose(found[1][1][name], value, atol=2e-4, err_msg=name)
    spread = found[1][2]["queue"]["visual"].sharding
    assert spread.shard_shape((2, 16, 32)) == (2, 2, 32)


CLIP = PersonSearch(
    visual=Visual("RN50", ClipSize((1, 1, 1, 1), 8, 12)),
    textual=Textual(hidden=6, embedding=5),
    embed=4,
    momentum=Momentum(queue=32, projector=True),
)
CLIP_SETTING = dataclasses.replace(
    SETTING, data=dataclasses.replace(DATA.describe(), element={
        **DATA.describe().element, "image": jax.ShapeDtypeStruct((64, 32, 3), np.float32)
    })
)  # fmt: skip


def numbers(tree: Any) -> Any:
    """Random arrays in the shapes of a State."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.asarray(random.integers(0, 9, x.shape), x.dtype), tree)


def test_official_checkpoints_go_in_and_come_out():
    task = CLIP.build(CLIP_SETTING)
    state = jax.eval_shape(task.init, jax.random.key(0))
    parts = {name: state[name] for name in task.import_parts}
    ours = numbers(parts)
    tensors = task.import_names[0].to_torch(ours)
    assert tensors["embed_model.v_queue"].shape == (4, 32)
    assert tensors["embed_model.t_encoder_k.embed.weight"].shape == (5, 24)
    tensors["embed_model.v_encoder_q.conv1.weight"] = tensors["visual_model.conv1.weight"]
    tensors["embed_model.id_queue"] = tensors["embed_model.id_queue"].astype(np.int64)
    tree, report = import_checkpoint(tensors, task.import_names[0], parts)
    assert len(report.used) == len(tensors)
    slot = ours["queue"]["slot"]
    tree["queue"]["slot"] = tree["queue"]["slot"].astype(slot.dtype)
    jax.tree.map(np.testing.assert_array_equal, tree, ours)
    tensors["embed_model.loss_evaluator.projection"] = np.zeros((4, 99), np.float32)
    with pytest.raises(CheckpointError, match=r"projection.*\[4, 99\].*\[4, 12\]"):
        import_checkpoint(tensors, task.import_names[0], parts)


def test_clip_goes_in_with_its_positions_resized():
    task = CLIP.build(CLIP_SETTING)
    state = jax.eval_shape(task.init, jax.random.key(0))
    visual = numbers({"params": {"visual": state["params"]["visual"]},
                      "batch_stats": state["batch_stats"]})  # fmt: skip
    square = np.random.default_rng(1).normal(size=(10, 256)).astype(np.float16)
    visual["params"]["visual"]["attnpool"]["positional_embedding"] = square
    names = task.import_names[1]
    tensors = {
        key.removeprefix("visual_model."): np.float16(value)
        for key, value in task.import_names[0].to_torch(visual).items()
    }
    tensors = {f"visual.{key}": value for key, value in tensors.items()}
    tensors["token_embedding.weight"] = np.zeros((3, 2))
    parts = {name: state[name] for name in task.import_parts}
    allowed = ["^(keys|queue|word_table)", "^params/(textual|head)/"]
    tree, _ = import_checkpoint(tensors, names, parts, allowed)
    got = tree["params"]["visual"]["attnpool"]["positional_embedding"]
    want = resize_pos_embed(jnp.asarray(square, jnp.float32), (4, 2))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    with pytest.raises(CheckpointError, match="keys/params/visual/conv1/kernel"):
        import_checkpoint(tensors, names, parts, allowed[1:])


@pytest.fixture(scope="module")
def searcher() -> Any:
    task = small_search(None).build(SETTING)
    return task, jax.jit(task.init)(jax.random.key(0))


def test_sentences_search_crops_and_indexes(searcher: Any):
    task, state = searcher
    random = np.random.default_rng(0)
    crops = [random.integers(0, 256, (20, 9, 3), np.uint8) for _ in range(3)]
    names = ["a/x.png", "b.png", "c.png"]
    gallery, index = task.predict(state, [*crops, "red hat\n\nblue bag\n"], [*names, "q.txt"])
    assert isinstance(gallery, Gallery)
    assert [label for label, _ in gallery.rows] == ["red hat", "blue bag"]
    assert all(len(pictures) == 3 for _, pictures in gallery.rows)
    assert isinstance(index, File)
    alone = task.predict(state, crops, names)
    assert [type(figure) for figure in alone] == [Table, File]

    with np.load(io.BytesIO(index.data)) as archive:
        arrays = dict(archive)
    (again,) = task.predict(state, [arrays, "red hat"], ["index.npz", "red hat"])
    captions = [[p.caption for p in pictures] for _, pictures in (*again.rows, gallery.rows[0])]
    assert captions[0] == captions[1]
    other = {**state, "params": jax.tree.map(lambda x: x + 1, state["params"])}
    with pytest.raises(DataError, match=r"index.npz was made by other weights"):
        task.predict(other, [arrays, "red hat"], ["index.npz", "red hat"])
    with pytest.raises(DataError, match=r"not a gallery index, it lacks embeddings"):
        task.predict(state, [{"version": np.array(1)}, "red hat"], ["i.npz", "red hat"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["red hat"], "nothing to search in"),
        ([np.zeros((9, 9, 3), np.uint8), "zebra crossing"], "none of its words is in the vocab"),
        ([np.zeros((9, 9, 3), np.uint8), "red hat " * 9], "18 words or tokens, .*at most 12"),
    ],
)
def test_searches_that_cannot_be_answered(searcher: Any, inputs: list[Any], message: str):
    task, state = searcher
    with pytest.raises(DataError, match=message):
        task.predict(state, inputs, ["?"] * len(inputs))


def test_a_run_is_restored_with_its_own_identities_and_vocabulary():
    meta = {"classes": ["ann", "bob"], "facts": {"vocabulary": ["hat"], "vocabulary_size": 2}}
    info = runs.described(experiments.load("textreid/cuhk_pedes").experiment(), meta)
    assert info.num_classes == 2
    assert info.facts["vocabulary"] == ["hat"]
    assert info.facts["vocabulary_size"] == 2
    assert info.facts["word_width"] == 512
