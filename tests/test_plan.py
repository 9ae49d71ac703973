"""Plans of a small stand-in task: from shapes alone, and by the TPU compiler where it is there."""

from __future__ import annotations

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import pytest

from jaxcog import plan as planning
from jaxcog.config import Experiment, Mesh, Train
from jaxcog.errors import ConfigError
from jaxcog.planning import topology
from jaxcog.task import DataInfo, Task
from jaxcog.training import sharding
from jaxcog.training.program import assemble

CONTRACT = {
    "fits",
    "chips",
    "hbm_bytes_per_chip",
    "hbm_capacity_bytes",
    "flops_per_chip",
    "estimated_step_seconds",
    "estimated_mfu",
    "collective_bytes",
    "config",
    "topology",
    "method",
    "parameters",
    "parameter_bytes_per_chip",
    "notes",
}


@dataclasses.dataclass(frozen=True)
class Layers:
    """tanh(x W) `depth` times in a scan; gradient descent with momentum on the mean square."""

    width: int = 256
    depth: int = 6

    def build(self, setting):
        def init(key):
            shape = (self.depth, self.width, self.width)
            params = {"kernel": jax.random.normal(key, shape) / self.width**0.5}
            return {
                "step": jnp.int32(0),
                "params": params,
                "opt": jax.tree.map(jnp.zeros_like, params),
            }

        def loss(params, x):
            def layer(h, w):
                return jnp.tanh(h @ w.astype(setting.dtype)), None

            last, _ = jax.lax.scan(layer, x.astype(setting.dtype), params["kernel"])
            return jnp.mean(jnp.square(last.astype(jnp.float32)))

        def train_step(state, batch, key):
            value, gradients = jax.value_and_grad(loss)(state["params"], batch["x"])
            opt = jax.tree.map(lambda m, g: 0.9 * m + g, state["opt"], gradients)
            params = jax.tree.map(lambda p, m: p - 0.1 * m, state["params"], opt)
            return {"step": state["step"] + 1, "params": params, "opt": opt}, {"loss": value}

        return Task(
            init=init,
            train_step=train_step,
            eval_step=lambda state, batch: loss(state["params"], batch["x"]),
            summarize=dict,
            headline="loss",
        )


@dataclasses.dataclass(frozen=True)
class Rows:
    width: int = 256

    def describe(self):
        return DataInfo(
            {"x": jax.ShapeDtypeStruct((self.width,), jnp.float32)}, num_examples=10_000
        )


def experiment(*, width=256, depth=6, batch=64, mesh=None):
    train = Train(batch_size=batch, dtype="bfloat16", duration="5 steps")
    return Experiment("standin", Layers(width, depth), Rows(width), train, mesh or Mesh())


def matrix_flops(width, depth, batch):
    """Forward, gradient of the weights, gradient of the input (also through the first layer)."""
    return depth * 3 * 2 * batch * width * width


@pytest.fixture
def without_compiler(monkeypatch):
    monkeypatch.setattr(topology, "can_compile", lambda: False)


@pytest.mark.usefixtures("without_compiler")
def test_abstract_plan():
    report = planning.plan(experiment(), "v5e:4x4", name="standin/rows")
    found = report.to_json()
    assert set(found) == CONTRACT
    assert json.loads(json.dumps(found)) == found
    assert (found["method"], found["chips"], found["topology"]) == ("abstract", 16, "v5e:4x4")
    assert found["fits"] is None
    assert found["parameters"] == 6 * 256 * 256
    state = 2 * 6 * 256 * 256 * 4 + 4
    assert found["hbm_bytes_per_chip"] == state + 64 // 16 * 256 * 4
    assert found["flops_per_chip"] == matrix_flops(256, 6, 64) / 16
    assert found["estimated_step_seconds"] is None
    assert "jaxcog[tpu]" in report.text()
    assert "standin/rows" in report.text()


@pytest.mark.usefixtures("without_compiler")
def test_fsdp_splits_what_a_chip_holds():
    whole = planning.plan(experiment(), "v5e:2x4")
    split = planning.plan(experiment(mesh=Mesh(fsdp=8)), "v5e:2x4")
    assert split.parameter_bytes_per_chip * 8 == whole.parameter_bytes_per_chip
    assert split.hbm_bytes_per_chip < whole.hbm_bytes_per_chip


@pytest.mark.usefixtures("without_compiler")
def test_what_cannot_fit_is_known_without_a_compiler():
    report = planning.plan(experiment(width=32768, depth=4), "v5e:2x2")
    assert report.fits is False
    assert "NO" in report.text()


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [("v5e:3x5", {}, "hosts"), ("v5e:4x4", {"batch": 24}, "batch"), ("v7:2x2", {}, "v6e")],
)
@pytest.mark.usefixtures("without_compiler")
def test_bad_input(name, changes, why):
    with pytest.raises(ConfigError, match=why):
        planning.plan(experiment(**changes), name)


def test_a_program_that_cannot_be_read_still_has_its_memory():
    class Unreadable:
        def as_text(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: async-update instruction")

        def memory_analysis(self):
            names = ("argument", "output", "alias", "temp", "generated_code")
            return types.SimpleNamespace(**{f"{name}_size_in_bytes": 2**30 for name in names})

    slice_ = topology.parse("v5p:2x2x2")
    made = experiment()
    program = assemble(made, made.data.describe(), sharding.abstract_mesh(made.mesh, slice_.chips))
    report = planning._measured(program, slice_, "standin/rows", Unreadable(), written=5.0)
    assert report.fits
    assert report.hbm_bytes_per_chip == 3 * 2**30
    assert report.flops_per_chip == 5.0
    assert "cannot be read (INTERNAL: async-update instruction)" in report.text()


@pytest.mark.parametrize(("batch", "advice"), [(64, []), (24, ["3 ", " 64 "]), (72, ["9 ", "128"])])
def test_images_come_by_eights(batch: int, advice: list[str]):
    made = experiment(batch=batch)
    program = assemble(made, made.data.describe(), sharding.abstract_mesh(made.mesh, 8))
    notes = planning._eights(program)
    assert len(notes) == bool(advice)
    assert all(word in " ".join(notes) for word in advice)


def test_only_programs_with_convolutions_are_told_so():
    shapes = "bf16[8,9,9,64] convolution(%a, %b), "
    assert planning._CONVOLVES.search(f"%c = {shapes}window={{size=3x3 pad=1_1x1_1}}, dim_labels=")
    assert not planning._CONVOLVES.search(f"%c = {shapes}dim_labels=bf_io->bf")
    assert not planning._CONVOLVES.search("%r = reduce-window(%a, %b), window={size=1x2x2x1}")


def test_out_of_memory_messages():
    first = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
    first += "temporaries (41.00G) exceeds available HBM (15.75G)."
    second = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
    second += "space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.\n"
    second += "Total hbm usage >= 20.75G:\n    reserved 258.00M"
    assert planning.out_of_memory(first) == 41 * 2**30
    assert planning.out_of_memory(second) == int(20.75 * 2**30)
    assert planning.out_of_memory(second.split("\n")[0]) == int(20.5 * 2**30)
    assert planning.out_of_memory("RESOURCE_EXHAUSTED: hbm") == 0
    assert planning.out_of_memory("RESOURCE_EXHAUSTED: memory space vmem, used 20M of 16M") is None
    assert planning.out_of_memory("INVALID_ARGUMENT: hbm") is None


needs_compiler = pytest.mark.skipif(
    not topology.can_compile(), reason="libtpu is not installed (pip install 'jaxcog[tpu]')"
)


@needs_compiler
def test_compiled_plan():
    report = planning.plan(experiment(width=512, batch=1024), "v5e:2x2", name="standin/rows")
    found = report.to_json()
    assert set(found) == CONTRACT
    assert (found["method"], found["fits"], found["chips"]) == ("tpu-aot", True, 4)
    parameters = 6 * 512 * 512
    assert found["hbm_bytes_per_chip"] >= 2 * parameters * 4
    written = matrix_flops(512, 6, 1024) / 4
    assert written <= found["flops_per_chip"] <= 1.1 * written
    # An all-reduce of each layer's bfloat16 gradient inside the backward loop, and of the loss.
    assert parameters * 2 <= found["collective_bytes"]["all-reduce"] <= parameters * 2 + 64
    assert 0 < found["estimated_mfu"] < 1
    assert found["estimated_step_seconds"] > written / 197e12
    assert "all-reduce" in report.text()


@needs_compiler
def test_out_of_memory_is_an_answer():
    report = planning.plan(experiment(width=32768, depth=4), "v5e:2x2")
    assert report.fits is False
    assert report.hbm_bytes_per_chip is None or (
        report.hbm_bytes_per_chip > report.hbm_capacity_bytes
    )
    assert "out of memory" in report.text()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5p:2x2x2", "v6e:2x4", "v5e:16x16", "v5e:1x1"])
def test_every_generation_compiles(name):
    report = planning.plan(experiment(width=512, batch=2048), name)
    assert report.method == "tpu-aot"
    assert report.fits
    assert 0 < report.estimated_mfu < 1
