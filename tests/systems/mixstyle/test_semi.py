from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcog.errors import ConfigError
from jaxcog.systems.mixstyle import MixStyle
from jaxcog.systems.mixstyle.fixmatch import (
    Parts,
    PseudoLabels,
    fixmatch_mixstyle_loss,
    pseudo_labels,
    statistics,
)
from jaxcog.systems.mixstyle.ops import MixDraw, apply_draw, crossdomain_permutation
from jaxcog.systems.mixstyle.semi import SemiSupervised
from jaxcog.task import DataInfo, Setting

ROWS, SIZE, CLASSES = 8, 8, ("a", "b", "c")


def linear(calls=None, weight=None):
    """A network that pools and multiplies; keeps a note of what each pass was given."""
    matrix = jnp.eye(3) * 5 if weight is None else weight

    def apply(which, stats, images, draws):
        if calls is not None:
            calls.append((which, images.shape[0], sorted(draws)))
        for draw in draws.values():
            images = apply_draw(images, draw)
        return jnp.mean(images, axis=(1, 2)) @ matrix, stats + 1

    return apply


def streams(seed=0, rows=ROWS, unlabelled=None):
    random = np.random.default_rng(seed)

    def one(count):
        views = {
            v: random.normal(size=(count, 4, 4, 3)).astype(np.float32) for v in ("weak", "strong")
        }
        return {**views, "label": random.integers(0, 3, count).astype(np.int32)}

    return one(rows), one(unlabelled or rows)


def draws(seed=0, rows=2 * ROWS):
    key = jax.random.key(seed)
    lam = jax.random.uniform(key, (rows,))
    return {"stage": MixDraw(jnp.bool_(True), lam, crossdomain_permutation(key, rows))}


def by_hand(labelled, unlabelled, drawn, threshold, weight_u):
    """The loss as the paper writes it: one batch after the other, labelled images first."""
    apply = linear()
    log_p = jax.nn.log_softmax(apply("labelled", 0, labelled["weak"], {})[0])
    loss_x = -np.mean([log_p[i, label] for i, label in enumerate(labelled["label"])])
    both = {v: np.concatenate([labelled[v], unlabelled[v]]) for v in ("weak", "strong")}
    chances = jax.nn.softmax(apply("pseudo", 0, both["weak"], {})[0])
    log_p = jax.nn.log_softmax(apply("strong", 0, both["strong"], drawn)[0])
    terms = [-log_p[i, np.argmax(p)] * (np.max(p) >= threshold) for i, p in enumerate(chances)]
    return loss_x + weight_u * np.mean(terms)


@pytest.mark.parametrize("unlabelled", [ROWS, ROWS + 2])
def test_the_loss_is_that_of_the_paper(unlabelled):
    x, u = streams(unlabelled=unlabelled)
    drawn, calls = draws(rows=ROWS + unlabelled), []
    options = {"threshold": 0.6, "weight_u": 0.7}
    value, parts = fixmatch_mixstyle_loss(linear(calls), 0, x, u, draws=drawn, **options)
    np.testing.assert_allclose(value, by_hand(x, u, drawn, 0.6, 0.7), rtol=1e-5)
    both = ROWS + unlabelled
    assert calls == [("pseudo", both, []), ("labelled", ROWS, []), ("strong", both, ["stage"])]
    assert parts.batch_stats == 3
    weak = np.concatenate([x["weak"], u["weak"]]).mean(axis=(1, 2))
    np.testing.assert_array_equal(parts.pseudo.label, weak.argmax(axis=1))


def test_only_confident_labels_count_and_give_no_gradient():
    x, u = streams()

    def loss_u(weight, threshold):
        options = {"draws": {}, "threshold": threshold}
        return fixmatch_mixstyle_loss(linear(weight=weight), 0, x, u, **options)[1].loss_u

    assert float(loss_u(jnp.eye(3), 1.0)) == 0.0
    assert float(loss_u(jnp.eye(3), 0.0)) > 0.0
    labels = pseudo_labels(jnp.array([[0.0, 5.0, 0.0], [1.0, 1.1, 1.0]]), 0.9)
    assert labels.keep.tolist() == [True, False]
    gradient = jax.grad(lambda x: jnp.sum(pseudo_labels(x, 0.5).confidence))(jnp.ones((2, 3)))
    assert not gradient.any()


def test_statistics_are_of_the_unlabelled_rows():
    pseudo = PseudoLabels(
        jnp.array([0, 0, 1, 2, 2, 1]),
        jnp.ones(6),
        jnp.array([True, True, True, True, False, False]),
    )
    parts = Parts(jnp.float32(1), jnp.float32(2), jnp.eye(3)[jnp.array([0, 1])], pseudo, None)
    scalars = statistics(parts, jnp.array([0, 2]), jnp.array([1, 1, 2, 0]))
    assert float(scalars["accuracy"]) == 50
    assert float(scalars["keep_rate"]) == 50
    assert float(scalars["pseudo_accuracy"]) == 50
    assert float(scalars["kept_accuracy"]) == pytest.approx(50, abs=1e-2)


def setting(**changes):
    image = jax.ShapeDtypeStruct((SIZE, SIZE, 3), jnp.float32)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    views = {"weak": image, "strong": image, "label": number}
    data = DataInfo(
        {"labelled": views, "unlabelled": views},
        80,
        CLASSES,
        eval_element={"image": image, "label": number},
    )
    return dataclasses.replace(Setting(data, 20, 10, ROWS), **changes)


def config(**changes):
    style = MixStyle(p=1.0, alpha=1.0, mix="crossdomain", after=("conv1",))
    return SemiSupervised(network="cnn_toy", mixstyle=style, **changes)


def test_sharded_batches_equal_one_device_and_stay_where_they_are():
    x, u = streams()
    drawn = draws()

    def loss(weight, x, u):
        return fixmatch_mixstyle_loss(linear(weight=weight), 0, x, u, draws=drawn, threshold=0.4)[0]

    step, weight = jax.jit(jax.value_and_grad(loss)), jnp.eye(3) * 5
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    placed = jax.device_put(weight, everywhere), *jax.device_put((x, u), rows)
    sharded = step.lower(*placed).compile()
    for one, many in zip(step(weight, x, u), sharded(*placed), strict=True):
        np.testing.assert_allclose(one, many, rtol=1e-5, atol=1e-6)
    kinds = r"(all-to-all|collective-permute|all-gather)(-start)?\("
    lines = [line for line in sharded.as_text().splitlines() if re.search(kinds, line)]
    assert not [line for line in lines if re.search(r"f32\[\d+,4,4,3\]", line)]


def test_one_step_logs_what_it_did():
    x, u = streams()
    enlarge = {v: lambda a: np.repeat(np.repeat(a, 2, 1), 2, 2) for v in ("weak", "strong")}
    batch = {
        name: {k: enlarge[k](v) if k in enlarge else v for k, v in part.items()}
        for name, part in (("labelled", x), ("unlabelled", u))
    }
    task, key = config(mix_labelled=True).build(setting()), jax.random.key(0)
    state = jax.eval_shape(task.init, key)
    after, scalars = jax.eval_shape(task.train_step, state, batch, key)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert set(scalars) >= {"loss_x", "loss_u", "keep_rate", "pseudo_accuracy", "kept_accuracy"}


def test_pseudo_labels_of_running_statistics_leave_these_alone():
    x, u = streams(rows=ROWS)
    batch = {"labelled": x, "unlabelled": u}
    assert _training_passes(config(), batch) == 3
    assert _training_passes(config(pseudo_labels="eval"), batch) == 2


def _training_passes(task, batch):
    modes = []

    class Network:
        def apply(self, params, stats, images, *, train, draws, eps, ddof, kind, key):
            modes.append(train)
            logits = jnp.mean(images, axis=(1, 2)) * params
            return dataclasses.make_dataclass("Out", ["logits", "batch_stats"])(logits, stats)

    task.objective(Network(), jnp.float32(1), 0, batch, {}, {})
    return sum(modes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 1.5}, "task.threshold"),
        ({"weight_u": -1.0}, "task.weight_u"),
        ({"pseudo_labels": "both"}, "task.pseudo_labels"),
        ({"hidden": (0,)}, "task.hidden"),
    ],
)
def test_bad_configs_name_their_key(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_data_without_two_streams_is_refused():
    plain = DataInfo({"image": jax.ShapeDtypeStruct((8, 8, 3), jnp.float32)}, 80, CLASSES)
    with pytest.raises(ConfigError, match=r"labelled and unlabelled.*no labelled, unlabelled"):
        config().build(setting(data=plain))
