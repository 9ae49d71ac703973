"""Checkpoints: bitwise round trips, other meshes, retention, damage, and clear messages."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcog.config import Mesh
from jaxcog.errors import CheckpointError
from jaxcog.training import sharding
from jaxcog.training.checkpoint import (
    Checkpoints,
    check_same_leaves,
    read_meta,
    resolve,
    restore_tree,
    save_tree,
)
from jaxcog.training.checkpoint import ocp as orbax


def make_state(seed: int = 0):
    kernel = jax.random.normal(jax.random.key(seed), (128, 136))
    params = {"head": {"kernel": kernel, "bias": jnp.zeros(136)}}
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-3, mu_dtype=jnp.bfloat16), optax.identity()
    )
    return {
        "step": jnp.int32(7),
        "params": params,
        "opt": optimizer.init(jax.tree.map(lambda x: x + seed, params)),
        "ema": jax.tree.map(lambda x: x.astype(jnp.bfloat16), params),
        "batch_stats": {},
    }


def abstract(state, mesh):
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state,
        sharding.state_shardings(state, mesh),
    )


def assert_same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def corrupt(step_folder: Path):
    """Changes one byte in the middle of the largest file: the size stays."""
    largest = max(
        (p for p in step_folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 0xFF
    largest.write_bytes(bytes(data))


@pytest.fixture
def mesh():
    return sharding.make_mesh(Mesh(fsdp=4))


def write(directory, steps, *, keep_last=10, best=None, metrics=None):
    checkpoints = Checkpoints(directory, keep_last=keep_last, best=best)
    for step in steps:
        metric = (metrics or {}).get(step)
        checkpoints.save(step, make_state(step), {"elapsed": float(step)}, metric)
    checkpoints.wait()
    return checkpoints


def test_round_trip_is_bitwise_on_the_same_and_on_another_mesh(tmp_path, mesh):
    state = make_state()
    placed = jax.device_put(state, sharding.state_shardings(state, mesh))
    checkpoints = Checkpoints(tmp_path, keep_last=1, best=None)
    meta = {"fingerprint": {"seed": 3, "examples": 1797}, "elapsed": 12.5}
    checkpoints.save(7, placed, meta)
    for other in (mesh, sharding.make_mesh(Mesh(data=1), jax.devices()[:1])):
        wanted = abstract(state, other)
        restored, restored_meta = checkpoints.restore(None, wanted)
        assert_same(state, restored)
        assert restored_meta == meta
        for leaf, target in zip(jax.tree.leaves(restored), jax.tree.leaves(wanted), strict=True):
            assert leaf.sharding == target.sharding
    checkpoints.close()


def test_arrays_may_be_donated_right_after_save(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=1, best=None)
    state = {"x": jnp.arange(1 << 18, dtype=jnp.float32)}
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    checkpoints.save(1, state, {})
    jax.block_until_ready(overwrite(state))
    checkpoints.wait()
    np.testing.assert_array_equal(restore_tree(tmp_path / "1")["x"], np.arange(1 << 18))


def test_keeps_the_last_and_the_best_across_restarts(tmp_path):
    metrics = {1: 0.5, 2: 0.9, 3: float("nan"), 4: 0.9, 5: 0.1}
    first = write(tmp_path, [1, 2, 3], keep_last=2, best="max", metrics=metrics)
    assert first.steps() == [2, 3]
    second = write(tmp_path, [4, 5], keep_last=2, best="max", metrics=metrics)
    assert second.steps() == [2, 4, 5]
    assert second.best() == 2  # the first of equals
    assert second.latest() == 5


def test_resolve_prefers_the_best_where_asked(tmp_path):
    write(tmp_path / "checkpoints", [1, 2, 3], best="min", metrics={1: 3.0, 2: 1.0, 3: 2.0})
    assert resolve(tmp_path, prefer="best")[1] == 2
    assert resolve(tmp_path)[1] == 3


def test_lower_may_be_better(tmp_path):
    assert write(tmp_path, [1, 2, 3], best="min", metrics={1: 2.0, 2: 1.0, 3: 3.0}).best() == 2


def test_saving_a_step_again_replaces_it(tmp_path, mesh):
    checkpoints = write(tmp_path, [1], best="max")
    assert checkpoints.best() is None
    checkpoints.save(1, make_state(2), {"finished": True}, 0.25)
    restored, meta = checkpoints.restore(None, abstract(make_state(), mesh))
    assert_same(restored, make_state(2))
    assert meta == {"finished": True}
    assert checkpoints.steps() == [1]
    assert checkpoints.best() == 1


def test_every_differing_leaf_is_named(tmp_path, mesh):
    checkpoints = write(tmp_path, [1])
    other = abstract(make_state(), mesh)
    other["params"]["head"]["kernel"] = jax.ShapeDtypeStruct((128, 10), jnp.float32)
    other["ema"]["head"]["bias"] = jax.ShapeDtypeStruct((136,), jnp.float32)
    other["params"]["extra"] = jax.ShapeDtypeStruct((3,), jnp.float32)
    with pytest.raises(CheckpointError) as error:
        checkpoints.restore(None, other)
    message = str(error.value)
    assert "differ in 3 leaves" in message
    assert "params/head/kernel: checkpoint float32[128, 136], model float32[128, 10]" in message
    assert "ema/head/bias: checkpoint bfloat16[136], model float32[136]" in message
    assert "params/extra: checkpoint has none, model float32[3]" in message
    assert "config.json" in message


def test_many_differing_leaves_are_counted():
    leaf = jax.ShapeDtypeStruct((1,), jnp.float32)
    with pytest.raises(CheckpointError, match=r"differ in 30 leaves(?s:.*)and 10 more"):
        check_same_leaves("here", {}, {f"p{i}": leaf for i in range(30)})


@pytest.mark.parametrize("damage", ["flip", "truncate", "no metadata", "empty"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, mesh, damage):
    write(tmp_path, [1, 2])
    newest = tmp_path / "2"
    if damage == "flip":
        corrupt(newest)
    elif damage == "truncate":
        for path in (newest / "state").rglob("*"):
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)
    elif damage == "no metadata":
        (newest / "state" / "_METADATA").unlink()
    else:
        shutil.rmtree(newest)
        newest.mkdir()
    said = []
    checkpoints = Checkpoints(tmp_path, keep_last=1, best=None, report=said.append)
    restored, meta = checkpoints.restore(None, abstract(make_state(), mesh))
    assert_same(restored, make_state(1))
    assert meta == {"elapsed": 1.0}
    assert len(said) == 1
    assert "step 2" in said[0]
    assert "step 1" in said[0]
    # Retention must not count the damaged one and throw the good one away for it.
    checkpoints.save(3, make_state(3), {})
    checkpoints.wait()
    assert checkpoints.steps() == [3]


def test_a_damaged_later_checkpoint_does_not_push_out_good_ones(tmp_path, mesh):
    write(tmp_path, [10, 20])
    corrupt(tmp_path / "20")
    checkpoints = Checkpoints(tmp_path, keep_last=1, best=None, report=lambda text: None)
    checkpoints.restore(None, abstract(make_state(), mesh))
    checkpoints.save(15, make_state(15), {})
    checkpoints.wait()
    assert 15 in checkpoints.steps()
    again = Checkpoints(tmp_path, keep_last=1, best=None, report=lambda text: None)
    assert_same(again.restore(None, abstract(make_state(), mesh))[0], make_state(15))


def test_all_damaged_and_an_explicit_damaged_step(tmp_path, mesh):
    write(tmp_path, [1, 2])
    corrupt(tmp_path / "2")
    checkpoints = Checkpoints(tmp_path, keep_last=1, best=None, report=lambda text: None)
    with pytest.raises(CheckpointError, match=r"whole ones may be \[1\]"):
        checkpoints.restore(2, abstract(make_state(), mesh))
    corrupt(tmp_path / "1")
    with pytest.raises(CheckpointError, match=r"(?s)step 2: .*step 1: "):
        checkpoints.restore(None, abstract(make_state(), mesh))
    with pytest.raises(CheckpointError, match="damaged"):
        restore_tree(tmp_path / "1")


def test_a_failed_write_leaves_the_last_good_checkpoint(tmp_path, mesh):
    checkpoints = write(tmp_path, [1])
    big = make_state(2) | {"queue": jax.random.normal(jax.random.key(0), (512, 1024))}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # as a full disk: EFBIG
    try:
        checkpoints.save(2, big, {})
        with pytest.raises(
            CheckpointError, match=r"step 2 could not .*\(step 1 is intact\)(?s:.*)disk"
        ):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoints.steps() == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["1"]
    assert_same(checkpoints.restore(None, abstract(make_state(), mesh))[0], make_state(1))
    checkpoints.save(3, big, {})
    checkpoints.close()
    assert checkpoints.latest() == 3


def test_leftovers_of_an_interrupted_write_are_no_checkpoints(tmp_path):
    write(tmp_path, [1])
    leftover = tmp_path / "2.orbax-checkpoint-tmp"
    leftover.mkdir()
    reader = Checkpoints(tmp_path, keep_last=5, best=None)
    assert reader.steps() == [1]
    assert leftover.exists()  # reading must not disturb a run that is just writing
    reader.save(3, make_state(3), {})
    reader.close()
    assert not leftover.exists()


def test_nothing_there(tmp_path, mesh):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Checkpoints(tmp_path, keep_last=1, best=None).restore(None, abstract(make_state(), mesh))
    with pytest.raises(CheckpointError, match="expected a run's workdir"):
        resolve(tmp_path)


def test_resolve_accepts_workdir_folder_and_step(tmp_path):
    write(tmp_path / "checkpoints", [1, 12])
    for path, step in (("", 12), ("checkpoints", 12), ("checkpoints/1", 1)):
        workdir, found = resolve(tmp_path / path)
        assert (str(workdir), found) == (str(tmp_path.resolve()), step)


def test_trees_without_a_target(tmp_path, mesh):
    state = jax.tree.map(np.asarray, make_state(3))
    save_tree(tmp_path, {"params": state["params"]}, {"source": "official.pth"})
    tree = restore_tree(tmp_path)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(tree))
    assert_same(tree, {"params": state["params"]})
    assert read_meta(tmp_path) == {"source": "official.pth"}
    only = restore_tree(tmp_path, only=lambda path: path.endswith("bias"))
    assert jax.tree.structure(only) == jax.tree.structure({"params": {"head": {"bias": 0}}})
    # What was saved from NumPy restores onto a mesh as well.
    wanted = abstract({"params": state["params"]}, mesh)
    restored, _ = Checkpoints(tmp_path / "checkpoints", keep_last=1, best=None).restore(
        None, wanted
    )
    assert_same(restored, {"params": state["params"]})


def test_names_on_disk_are_readable(tmp_path):
    write(tmp_path, [1])
    assert set(restore_tree(tmp_path / "1")["opt"]["1"]["0"]) == {"count", "mu", "nu"}


def test_a_foreign_checkpoint_is_refused(tmp_path):
    path = tmp_path / "checkpoints" / "5"
    orbax.save(path, {"w": np.ones(3)}, checkpointable_name="state")
    with pytest.raises(CheckpointError, match="not one that jaxcog wrote"):
        restore_tree(tmp_path)


def test_a_normal_run_says_nothing(tmp_path, mesh, capfd, caplog, recwarn):
    checkpoints = write(tmp_path, [1, 2], keep_last=1)
    checkpoints.restore(None, abstract(make_state(), mesh))
    restore_tree(tmp_path / "2")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert not recwarn.list
    assert not caplog.records
