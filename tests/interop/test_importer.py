from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxcog.errors import CheckpointError
from jaxcog.interop.importer import choose_table, import_checkpoint
from jaxcog.interop.names import NameTable, Rename, batch_norm, linear

TABLE = NameTable(
    (
        linear("fc", "fc"),
        batch_norm("bn", "bn"),
        Rename("queue_ptr", "queue/pointer"),
        Rename("extra", "params/extra"),
    )
)


def struct(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


MODEL = {
    "params": {
        "fc": {"kernel": struct(3, 2), "bias": struct(2)},
        "bn": {"scale": struct(2), "bias": struct(2)},
    },
    "batch_stats": {"bn": {"mean": struct(2), "var": struct(2)}},
    "queue": {"pointer": struct(1, dtype=jnp.int32)},
}


def checkpoint():
    vectors = ("fc.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    return {
        "fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        **{name: np.full(2, i, np.float32) for i, name in enumerate(vectors)},
        "bn.num_batches_tracked": np.array(5),
        "queue_ptr": np.array([7]),
    }


def test_a_fitting_checkpoint_fills_the_model():
    tree, report = import_checkpoint(checkpoint(), TABLE, MODEL)
    assert jax.tree.structure(tree) == jax.tree.structure(MODEL)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), tree, MODEL)
    assert all(jax.tree.leaves(same))
    np.testing.assert_array_equal(tree["params"]["fc"]["kernel"], checkpoint()["fc.weight"].T)
    assert ("fc.weight", "params/fc/kernel") in report.used
    assert report.ignored == ("bn.num_batches_tracked",)
    assert report.cast == ("queue/pointer: int64 -> int32",)


@pytest.mark.parametrize("narrow", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_widened_and_reported(narrow):
    tensors = {**checkpoint(), "fc.bias": np.array([0.5, 2], narrow)}
    tree, report = import_checkpoint(tensors, TABLE, MODEL)
    np.testing.assert_array_equal(tree["params"]["fc"]["bias"], np.array([0.5, 2], np.float32))
    assert any("params/fc/bias" in line for line in report.cast)


def test_every_difference_is_in_one_error():
    tensors = checkpoint()
    del tensors["bn.running_var"]
    tensors["fc.weight"] = np.zeros((2, 4), np.float32)
    tensors["fc.bias"] = np.zeros(2, np.float64)
    tensors["queue_ptr"] = np.array([2**40])
    tensors["optimizer.step"] = np.zeros(1)
    tensors["extra"] = np.zeros(1, np.float32)
    with pytest.raises(CheckpointError) as error:
        import_checkpoint(tensors, TABLE, MODEL)
    message = str(error.value)
    assert "6 places" in message
    for culprit in (
        "fc.weight -> params/fc/kernel: [4, 2] in the checkpoint, [3, 2] in the model",
        "fc.bias -> params/fc/bias: float64",
        "queue_ptr -> queue/pointer: int64",
        "batch_stats/bn/var: in the model, not in the checkpoint",
        "optimizer.step: in the checkpoint, unknown",
        "extra",
    ):
        assert culprit in message


def test_the_table_whose_keys_have_a_place_is_chosen():
    """A stem in a Sequential ends with `bn1`, which is another layer where the stem is plain."""
    deep = NameTable((*batch_norm("bn1", "bn3"), *batch_norm("bn2", "bn2")))
    plain = NameTable(batch_norm(r"bn(\d)", r"bn\1"))
    tensors = {
        f"bn1.{name}": np.ones(4, np.float32)
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    norm = {"params": {"bn1": {"scale": struct(4), "bias": struct(4)}}}
    norm["batch_stats"] = {"bn1": {"mean": struct(4), "var": struct(4)}}
    assert choose_table(tensors, (deep, plain), norm) is plain
