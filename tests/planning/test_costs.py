"""Costs read from compiled programs: stored snippets of TPU programs, and what XLA makes here."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcog.planning import hlo
from jaxcog.planning.costs import Transfer, costs
from jaxcog.planning.flops import program_flops

PROGRAMS = Path(__file__).parent / "programs"
LOOP = (PROGRAMS / "loop.hlo").read_text()
ASYNC = (PROGRAMS / "collectives.hlo").read_text()


def loop(*, start=0, end=8, step=1, direction="LT", bound="%i.3, %end.3"):
    text = LOOP.replace("BOUND", bound).replace("DIRECTION", direction)
    for name, value in (("START", start), ("END", end), ("STEP", step)):
        text = text.replace(name, str(value))
    return text


def test_a_loop_counts_as_often_as_it_runs():
    found = costs(loop(end=8))
    assert found.cycles == 7 + 8 * 100
    assert (found.flops, found.flops_once) == (8 * 2 * 4 * 16 * 16, 2 * 4 * 16 * 16)
    assert found.collective_bytes() == {"all-reduce": 8 * 4 * 16 * 4}
    assert found.collective_counts() == {"all-reduce": 8}
    assert found.unknown_loops == 0
    assert set(found.traffic) == {Transfer("all-reduce", group=4, overlapped=False)}


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({"start": 3, "end": 8}, 5),
        ({"end": 9, "step": 2}, 5),
        ({"end": 8, "direction": "LE"}, 9),
        ({"start": 8, "end": 0, "step": -1, "direction": "GT"}, 8),
        ({"end": 8, "direction": "GT", "bound": "%end.3, %i.3"}, 8),
        ({"end": 6, "direction": "NE"}, 6),
        ({"start": 5, "end": 5}, 0),
    ],
)
def test_loop_lengths(arguments, count):
    assert costs(loop(**arguments)).collective_counts().get("all-reduce", 0) == count


def test_a_loop_of_unknown_length_counts_once_and_says_so():
    found = costs(loop().replace("%zero = s32[] constant(0)", "%zero = s32[] custom-call(%x)"))
    assert (found.unknown_loops, found.cycles) == (1, 107)


def test_collectives_in_fusions_and_starts():
    found = costs(ASYNC)
    traffic = {(t.kind, t.group, t.overlapped): a.nbytes for t, a in found.traffic.items()}
    assert traffic == {
        ("all-gather", 8, True): 4096 * 64 * 2,  # cut in two by the compiler, one transfer
        ("all-gather", 2, True): 1024 * 64 * 2,
        ("collective-permute", None, True): 4096 * 64 * 4,
        ("reduce-scatter", 8, False): 4096 * 64 * 4,
    }
    assert found.transfer_seconds(1e9, 16, overlapped=False) == pytest.approx(
        7 / 8 * 4096 * 64 * 4 / 1e9
    )


def test_a_collective_that_goes_on_beside_a_loop_is_one():
    part = (
        "f32[16,16]{1,0} all-gather(%x.0), channel_id=3, replica_groups=[1,4]<=[4], dimensions={0}"
    )
    pieces = "".join(
        f"%{name} (x.0: f32[4,16]) -> f32[16,16] {{\n"
        f"  %x.0 = f32[4,16]{{1,0}} parameter(0)\n  ROOT %all-gather.{name} = {part}\n}}\n\n"
        for name in ("begin", "beside")
    )
    text = loop().replace("%body (", pieces + "%body (")
    for place, name, operand in (("%while.1", "begin", "x"), ("%sum.2", "beside", "y.2")):
        call = f"f32[16,16]{{1,0}} fusion(%{operand}), kind=kCustom, calls=%{name}"
        text = text.replace(f"  {place} =", f"  %call.{name} = {call}\n  {place} =")
    assert costs(text).collective_counts() == {"all-reduce": 8, "all-gather": 1}


def test_text_that_is_not_hlo():
    with pytest.raises(ValueError, match="ENTRY"):
        costs("no program")


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ("replica_groups={{0,2},{1,3}}, to_apply=%add", 2),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
        ("replica_groups=mesh['a'=2,'b'=3] {'a','b'}", 6),
        ("to_apply=%add", None),
    ],
)
def test_group_sizes(attributes, size):
    assert hlo.group_size(attributes) == size


def test_three_counts_agree_on_a_program_compiled_here():
    """By hand, from the traced program, and from the compiled one; XLA's own counts a body once."""

    def step(weights, x):
        def layer(h, w):
            return jnp.tanh(h @ w), None

        def loss(weights):
            return jnp.sum(jax.lax.scan(layer, x, weights)[0])

        return jax.value_and_grad(loss)(weights)

    weights = jax.ShapeDtypeStruct((6, 16, 16), jnp.float32)
    x = jax.ShapeDtypeStruct((32, 16), jnp.float32)
    by_hand = 6 * 3 * 2 * 32 * 16 * 16
    compiled = jax.jit(step).lower(weights, x).compile()
    found = costs(compiled.as_text())
    assert found.flops == by_hand
    assert program_flops(jax.jit(step).trace(weights, x).jaxpr) == by_hand
    assert found.flops_once == pytest.approx(by_hand / 6)
    assert found.flops_once <= compiled.cost_analysis()["flops"] < by_hand


def test_an_all_reduce_compiled_here():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    total = jax.jit(lambda x: x.sum(0), in_shardings=split, out_shardings=whole)
    compiled = total.lower(jax.ShapeDtypeStruct((8, 300), np.float32)).compile()
    found = costs(compiled.as_text())
    assert found.collective_bytes() == {"all-reduce": 300 * 4}
    assert {transfer.group for transfer in found.traffic} == {4}
