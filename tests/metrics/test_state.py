from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.metrics import state as metric_state
from jaxcog.metrics.state import Concat, Confusion, Mean


def test_mean_over_uneven_padded_batches_equals_mean_over_all_rows():
    values = np.arange(10, dtype=np.float32) ** 2
    padded = np.append(values, [np.nan, np.nan]).astype(np.float32)
    of = jax.jit(Mean.of)
    states = [
        jax.device_get(of(padded[i : i + 4], np.arange(i, i + 4) < 10)) for i in range(0, 12, 4)
    ]
    merged = states[0].merge(states[1]).merge(states[2])
    assert merged.compute() == pytest.approx(values.mean())


def test_mean_of_per_pixel_values_counts_every_pixel_and_empty_is_nan():
    state = Mean.of(jnp.ones((2, 3, 4)), jnp.array([True, False]))
    assert float(state.count) == 12
    assert np.isnan(Mean.of(jnp.ones(2), jnp.zeros(2, bool)).compute())


def test_confusion_ignores_masked_rows_and_labels_out_of_range():
    labels = jnp.array([[0, 1, 255], [1, 1, 1]])
    predictions = jnp.array([[0, 0, 1], [1, 1, 1]])
    state = jax.jit(Confusion.of, static_argnums=2)(
        predictions, labels, 2, jnp.array([True, False])
    )
    np.testing.assert_array_equal(state.compute(), [[1, 0], [1, 0]])


def test_host_sums_do_not_overflow_32_bits():
    big = Confusion(np.full((1, 1), 2**31 - 1, np.int32))
    assert big.merge(big).compute()[0, 0] == 2**32 - 2


def test_concat_keeps_order_drops_masked_rows_and_copies_nothing_when_merging():
    pieces = [
        Concat.of({"x": np.arange(i, i + 3), "y": np.ones((3, 2))}, np.array([True, i < 6, True]))
        for i in range(0, 9, 3)
    ]
    merged = pieces[0].merge(pieces[1]).merge(pieces[2])
    assert merged.arrays["x"][0] is pieces[0].arrays["x"][0]
    rows = merged.compute()
    np.testing.assert_array_equal(rows["x"], [0, 1, 2, 3, 4, 5, 6, 8])
    assert rows["y"].shape == (8, 2)


def test_trees_of_states_pass_jit_and_merge_by_name():
    @jax.jit
    def step(x):
        return {"loss": Mean.of(x), "rows": {"all": Concat.of({"x": x})}}

    first, second = (jax.device_get(step(jnp.arange(3.0) + i)) for i in (0, 3))
    result = metric_state.compute(metric_state.merge(first, second))
    assert result["loss"] == pytest.approx(2.5)
    np.testing.assert_array_equal(result["rows"]["all"]["x"], np.arange(6))


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="same number of rows"):
        Concat.of({"x": np.ones(2), "y": np.ones(3)})
    with pytest.raises(ValueError, match="mask"):
        Mean.of(jnp.ones((2, 3)), jnp.ones(3, bool))
    with pytest.raises(ValueError, match="differ"):
        Confusion.of(jnp.zeros(2, int), jnp.zeros(3, int), 2)
