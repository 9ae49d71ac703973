"""Two real processes of two devices each: placement, checkpoints, stopping together."""

from __future__ import annotations

import json
import os
import signal

import numpy as np

from tests.multiprocess.processes import Signal, run_processes

STATE = """
import jax, jax.numpy as jnp, numpy as np, optax
from jaxcog.config import Mesh
from jaxcog.training import sharding
from jaxcog.training.checkpoint import Checkpoints

def init():
    params = {"w": jnp.arange(256 * 128, dtype=jnp.float32).reshape(256, 128) / 7}
    return {"step": jnp.int32(5), "params": params, "opt": optax.adam(1e-3).init(params)}

def shardings(mesh):
    return sharding.state_shardings(jax.eval_shape(init), mesh)

def abstract(mesh):
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                        jax.eval_shape(init), shardings(mesh))

def save(directory, mesh):
    state = jax.jit(init, out_shardings=shardings(mesh))()
    checkpoints = Checkpoints(directory, keep_last=2, best="max")
    for step in (3, 5):
        checkpoints.save(step, state, {"elapsed": 1.5}, metric=1.0 / step)
    checkpoints.close()

def check(directory, mesh, step):
    said = []
    checkpoints = Checkpoints(directory, keep_last=2, best="max", report=said.append)
    state, meta = checkpoints.restore(None, abstract(mesh))
    assert meta == {"elapsed": 1.5}
    assert len(said) == (step == 3), said
    whole = jax.jit(lambda s: s, out_shardings=sharding.replicated(mesh))(state)
    for got, want in zip(jax.tree.leaves(whole), jax.tree.leaves(init()), strict=True):
        got = np.asarray(got.addressable_data(0))
        assert got.dtype == want.dtype and got.tobytes() == np.asarray(want).tobytes()
"""


def test_a_batch_is_placed_over_processes(tmp_path):
    # data=2 splits the batch over the processes; space=4 makes both hold the same rows.
    results = run_processes(
        """
        import json
        import jax, numpy as np
        from jax.sharding import PartitionSpec as P
        from jaxcog.config import Mesh
        from jaxcog.training import sharding

        whole = {"image": np.arange(8 * 4 * 3, dtype=np.float32).reshape(8, 4, 3),
                 "label": np.arange(8, dtype=np.int32)}
        struct = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), whole)
        held = []
        for config in (Mesh(), Mesh(data=2, fsdp=2), Mesh(data=2, space=2), Mesh(space=4)):
            mesh = sharding.make_mesh(config)
            places = sharding.batch_shardings(
                struct, mesh, {"image": P(sharding.BATCH_AXES, "space")})
            rows = sharding.local_rows(places["label"], (8,))
            assert rows.tolist() == sharding.local_rows(places["image"], (8, 4, 3)).tolist()
            local = {name: value[rows] for name, value in whole.items()}
            batch = sharding.place(local, places, struct)
            copy = jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))(batch)
            for name, value in whole.items():
                assert batch[name].dtype == value.dtype
                np.testing.assert_array_equal(copy[name].addressable_data(0), value)
            held.append(rows.tolist())
        print(json.dumps(held))
        """
    )
    held = [json.loads(result.out) for result in results]
    for rows in zip(*[process[:3] for process in held], strict=True):
        assert sorted(np.concatenate(rows)) == list(range(8))  # each row in one process
    assert held[0][3] == held[1][3] == list(range(8))  # every row in both


def test_a_checkpoint_crosses_process_counts(tmp_path):
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    mesh = "sharding.make_mesh(Mesh(data=1, fsdp=-1))"
    run_processes(f"{STATE}\nsave({two!r}, {mesh})")
    run_processes(f"{STATE}\nsave({one!r}, {mesh})\ncheck({two!r}, {mesh}, 5)", n=1)
    # The newest of one process's checkpoints is damaged: both processes must go back together.
    part = next(path for path in (tmp_path / "one" / "5" / "state" / "d").iterdir())
    os.truncate(part, part.stat().st_size - 1)
    run_processes(f"{STATE}\ncheck({two!r}, {mesh}, 5)\ncheck({one!r}, {mesh}, 3)")


def test_a_signal_to_one_stops_both_at_the_same_step(tmp_path):
    ready = tmp_path / "ready"
    results = run_processes(
        f"""
        import pathlib, sys, time
        import jax
        from jaxcog.training.preemption import StopSignal

        with StopSignal() as stop:
            for step in range(100_000):
                if step == 10 and jax.process_index() == 0:
                    pathlib.Path({str(ready)!r}).touch()
                time.sleep(0.002 * jax.process_index())  # uneven hosts
                if stop.agreed(step):
                    break
        print(step)
        jax.distributed.shutdown()
        sys.exit(stop.exit_status)
        """,
        send=Signal(index=1, once=ready, number=signal.SIGTERM),
        check=False,
    )
    assert [result.status for result in results] == [143, 143], results
    steps = {int(result.out) for result in results}
    assert len(steps) == 1
    assert 10 <= steps.pop() < 99_999
