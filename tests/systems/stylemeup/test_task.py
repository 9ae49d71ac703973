"""The task as a whole: data that does not fit, what is judged, shown and predicted."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog import experiments
from jaxcog.data.toy.sketches import DrawnDigits, ShiftedDrawers, StyledDigits
from jaxcog.errors import ConfigError, DataError
from jaxcog.optim import Optimizer
from jaxcog.show import Gallery, Table
from jaxcog.systems.stylemeup.losses import Objective, Weights
from jaxcog.systems.stylemeup.meta import InnerLoop
from jaxcog.systems.stylemeup.task import NetworkConfig, StyleMeUp, passes_of
from jaxcog.task import DataInfo, Setting

MLP = NetworkConfig("mlp", latent=4, widths=(8,), dropout=0.0, transform=False)
TASK = StyleMeUp(network=MLP, over="vmap", shots=(0, 2))
CONV = NetworkConfig("conv", latent=4, widths=(2, 3), hidden=4)


def setting(data, **facts) -> Setting:
    info = data if isinstance(data, DataInfo) else data.describe()
    return Setting(info, steps=4, steps_per_epoch=2, batch_size=8, **facts)


def stepped(task, data, batch=8):
    """Shapes of State and scalars after a step."""
    built = task.build(setting(data))
    element = data.describe().element
    structs = {k: jax.ShapeDtypeStruct((batch, *v.shape), v.dtype) for k, v in element.items()}
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(built.init, key)
    return jax.eval_shape(built.train_step, state, structs, key)


def test_what_is_learned_through_the_step():
    state, scalars = stepped(dataclasses.replace(TASK, network=CONV), StyledDigits())
    assert state["params"]["psi"].shape == (5, 4)
    assert {k: v.shape for k, v in state["params"]["transform"]["gamma"].items()} == {
        "down_2": (3,)
    }
    assert {"loss", "inner_loss", "regulariser", "triplet", "self"} <= set(scalars)
    released = dataclasses.replace(
        TASK,
        network=dataclasses.replace(CONV, transform=False),
        objective=Objective("released", Weights(self_=0, reg=0)),
        inner=InnerLoop(first_order=True, steps=2),
        carry_gradients=True,
    )
    state, _ = stepped(released, StyledDigits())
    assert set(state["params"]) == {"encoder", "decoder"}
    assert jax.tree.structure(state["buffer"]) == jax.tree.structure(state["params"])
    joint = dataclasses.replace(TASK, meta=False, network=CONV)
    for data in (StyledDigits(), DrawnDigits(), ShiftedDrawers()):
        state, scalars = stepped(joint, data)
        assert set(state["params"]) == {"encoder", "decoder"}
        assert "inner_loss" not in scalars


def test_inner_and_outer_pass_hold_out_one_style():
    task = {"positive": jnp.zeros((1, 1)), "negative": jnp.ones((1, 1)),
            "sketches": jnp.arange(3.0).reshape(1, 3, 1)}  # fmt: skip
    seen = set()
    for i in range(12):
        inner, outer = passes_of(task, jax.random.key(i))
        first, second = inner.sketches.ravel().tolist()
        again, held = outer.sketches.ravel().tolist()
        assert first < second == again
        assert {first, second, held} == {0, 1, 2}
        seen.add(held)
    assert seen == {0, 1, 2}
    pairs = {k: jnp.arange(4.0)[:, None] for k in ("positive", "negative")}
    pairs["sketches"] = jnp.arange(4.0).reshape(4, 1, 1)
    inner, outer = passes_of(pairs, jax.random.key(0))
    assert inner.sketches.ravel().tolist() == [0, 1]
    assert outer.positive.ravel().tolist() == [2, 3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TASK.build(setting(DrawnDigits())), "1 photos with 2 sketches each"),
        (lambda: TASK.build(setting(DataInfo({"image": 0}, 1))), "choose data of sketches"),
        (
            lambda: dataclasses.replace(TASK, shots=(0, 11)).build(setting(ShiftedDrawers())),
            "has 10 sketches to adapt to",
        ),
        (lambda: dataclasses.replace(TASK, shots=()), "name numbers of sketches"),
        (lambda: dataclasses.replace(TASK, inner=InnerLoop(steps=0)), "task.meta=False"),
        (lambda: StyleMeUp(optimizer=Optimizer("adam", ema=0.9)), "optimizer.ema has no meaning"),
        (lambda: NetworkConfig("mlp"), "no normalised maps"),
        (lambda: NetworkConfig(latent=0), "must be positive"),
        (lambda: NetworkConfig(dropout=1.0), "dropout=1.0"),
        (
            lambda: StyleMeUp(network=NetworkConfig("conv")).build(setting(StyledDigits())),
            "whose side divides by 32",
        ),
        (
            lambda: NetworkConfig("inception_v3").make((64, 64, 3), jnp.float32),
            "colour images from 75 pixels",
        ),
    ],
)
def test_what_does_not_fit_is_said(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@functools.cache
def built(name: str):
    """The tiny experiment's task, a fresh state, its data."""
    experiment = experiments.load(f"stylemeup/{name}").experiment(tiny=True)
    splits = experiment.data.load()
    task = experiment.task.build(setting(splits.info))
    return task, jax.jit(task.init)(jax.random.key(0)), splits


def judged(name: str):
    task, state, splits = built(name)
    taken = {k: s.source.take(np.arange(len(s.source))) for k, s in splits.evaluation.items()}
    step = jax.jit(task.eval_step)
    results = {k: jax.device_get(step(state, batch)) for k, batch in taken.items()}
    return task.summarize(results), task.figures(state, taken, results)


@pytest.mark.parametrize(
    ("name", "metrics", "titles"),
    [
        (
            "drawers",
            {"acc@5_0shot", "acc@1_2shot"},
            ["Adaptation to a new user", "Rank of the right photo"],
        ),
        (
            "digits",
            {"acc@5", "acc@5_by_style", "style_gap", "swap_ratio", "rank_variance"},
            ["Retrieved photos", "Styles exchanged"],
        ),
        ("shoev2", {"acc@1", "acc@10", "mean_rank"}, ["Retrieved photos", "Reconstructions"]),
    ],
)
def test_reports(name, metrics, titles):
    found, figures = judged(name)
    assert metrics <= set(found)
    assert built(name)[0].headline in found
    assert [figure.title for figure in figures] == titles
    gallery = figures[0]
    assert all(picture.rgb.dtype == np.uint8 for _, row in gallery.rows for picture in row)
    assert any(picture.border == "good" for _, row in gallery.rows for picture in row) or (
        name == "digits"
    )


def item(seed: int, sketch: bool) -> dict:
    random = np.random.default_rng(seed)
    return {"image": random.integers(0, 256, (20, 24, 3), np.uint8), "sketch": sketch}


NAMES = ["look.svg", "me/a.png", "me/a_2.svg", "me/b.png", "me/sketch_x.svg", "b_sketch.svg",
         "p1.jpg", "p2.jpg"]  # fmt: skip


def test_predict_ranks_before_and_after_adaptation():
    task, state, _ = built("shoev2")
    inputs = [item(i, "svg" in name) for i, name in enumerate(NAMES)]
    ranked, table, exchanged = task.predict(state, inputs, NAMES)
    assert isinstance(ranked, Gallery)
    assert isinstance(table, Table)
    labels = [label for label, _ in ranked.rows]
    assert labels == [f"{sketch}, {when}" for sketch in ("look.svg", "sketch_x.svg")
                      for when in ("before", "after")]  # fmt: skip
    assert "2 sketches of this user" in ranked.note
    assert {row[3] for row in table.rows} == {"p1.jpg", "p2.jpg"}, "examples leave the gallery"
    assert len(exchanged.rows) == 2
    plain, _, _ = task.predict(state, [inputs[0], *inputs[6:]], [NAMES[0], *NAMES[6:]])
    assert "Not adapted" in plain.note


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([0, 4], "2 sketches and 0 photos: name at least one of each"),
        ([6, 7], "0 sketches and 2 photos"),
        ([1, 2], "all 1 sketches have a photo of their own name"),
        ([0, 1, 2], "me/a_2.svg: one photo with a sketch is too little"),
    ],
)
def test_predict_says_what_it_lacks(chosen, message):
    task, state, _ = built("shoev2")
    names = [NAMES[i] for i in chosen]
    with pytest.raises(DataError, match=message):
        task.predict(state, [item(i, "svg" in NAMES[i]) for i in chosen], names)
