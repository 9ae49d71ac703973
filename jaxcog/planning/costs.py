"""What one run of a compiled program costs: cycles, arithmetic, traffic between chips."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from jaxcog.planning import hlo, loops

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_ALIASES = {"ragged-all-to-all": "all-to-all", "collective-broadcast": "all-gather"}


@dataclasses.dataclass(frozen=True)
class Transfer:
    """A kind of collective among `group` devices; overlapped: it runs beside other work."""

    kind: str
    group: int | None
    overlapped: bool


@dataclasses.dataclass(frozen=True)
class Traffic:
    """`count` collectives with `nbytes` of payload in all."""

    nbytes: int = 0
    count: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.nbytes + other.nbytes, self.count + other.count)


@dataclasses.dataclass(frozen=True)
class Costs:
    """Per chip and run.

    cycles: sum of the compiler's estimates, loops included as often as they run.
    flops: of dot products and convolutions, loops likewise. flops_once: with every loop body
      counted once, as XLA's own cost analysis does.
    traffic: payload of the collectives: the larger of what a chip puts in and what it gets.
    unknown_loops: loops whose length does not follow from the program; counted once.
    """

    cycles: int = 0
    flops: int = 0
    flops_once: int = 0
    traffic: Mapping[Transfer, Traffic] = dataclasses.field(default_factory=dict)
    unknown_loops: int = 0

    def __add__(self, other: Costs) -> Costs:
        traffic = dict(self.traffic)
        for transfer, amount in other.traffic.items():
            traffic[transfer] = traffic.get(transfer, Traffic()) + amount
        return Costs(
            self.cycles + other.cycles,
            self.flops + other.flops,
            self.flops_once + other.flops_once,
            traffic,
            self.unknown_loops + other.unknown_loops,
        )

    def times(self, count: int) -> Costs:
        """Of `count` runs; `flops_once` and `unknown_loops` stay."""
        traffic = {
            transfer: Traffic(amount.nbytes * count, amount.count * count)
            for transfer, amount in self.traffic.items()
        }
        return dataclasses.replace(
            self, cycles=self.cycles * count, flops=self.flops * count, traffic=traffic
        )

    def collective_bytes(self) -> dict[str, int]:
        """Payload in bytes per chip of every kind of collective that occurs."""
        found: dict[str, int] = {}
        for transfer, amount in self.traffic.items():
            found[transfer.kind] = found.get(transfer.kind, 0) + amount.nbytes
        return dict(sorted(found.items()))

    def collective_counts(self) -> dict[str, int]:
        """How many collectives of every kind a run starts."""
        found: dict[str, int] = {}
        for transfer, amount in self.traffic.items():
            found[transfer.kind] = found.get(transfer.kind, 0) + amount.count
        return dict(sorted(found.items()))

    def transfer_seconds(self, bandwidth: float, chips: int, *, overlapped: bool) -> float:
        """Least time of the collectives on links that send `bandwidth` bytes/s per chip.

        A ring sends 2 (n-1)/n of the payload for an all-reduce and (n-1)/n for the others, a
        permutation all of it. Latency is not contained.
        """
        seconds = 0.0
        for transfer, amount in self.traffic.items():
            if transfer.overlapped != overlapped:
                continue
            group = transfer.group or chips
            share = 1.0 if transfer.kind == "collective-permute" else (group - 1) / group
            factor = 2 if transfer.kind == "all-reduce" else 1
            seconds += factor * share * amount.nbytes / bandwidth
        return seconds


def costs(text: str) -> Costs:
    """Costs of the optimised HLO `text` (`Compiled.as_text()`), per chip.

    Raises:
      ValueError: the text is not HLO.
    """
    module = hlo.parse(text)
    return _computation(module, module.computations[module.entry], [], _Context())


@dataclasses.dataclass(frozen=True)
class _Context:
    """Where a computation is used: in a fusion (whose cycles stand at the fusion itself)?

    channels: of the collectives already met in fusions: the compiler cuts one collective into a
    start, parts beside other work (in every round of a loop, perhaps), and an end, which all carry
    its channel.
    """

    fused: bool = False
    scattered: bool = False
    channels: set[str] = dataclasses.field(default_factory=set)


def _computation(
    module: hlo.Module, computation: hlo.Computation, arguments: list[Any], context: _Context
) -> Costs:
    total = Costs()
    for instruction in computation.instructions.values():
        flops = hlo.dot_flops(computation, instruction)
        total += Costs(
            cycles=0 if context.fused else instruction.estimated_cycles,
            flops=flops,
            flops_once=flops,
            traffic=_collective(computation, instruction, context),
        )
        if instruction.opcode == "while":
            total += _loop(module, computation, instruction, arguments, context)
        elif instruction.opcode == "conditional":
            total += _branches(module, instruction, context)
        elif instruction.opcode in ("fusion", "call", "async-start"):
            total += _called(module, instruction, context)
    return total


def _loop(
    module: hlo.Module,
    computation: hlo.Computation,
    loop: hlo.Instruction,
    arguments: list[Any],
    context: _Context,
) -> Costs:
    count, constants = loops.trip_count(module, computation, loop, arguments)
    body = module.computations[loop.called("body")]
    once = _computation(module, body, [constants], _Context(channels=context.channels))
    unknown = Costs(unknown_loops=int(count is None))
    return once.times(1 if count is None else count) + unknown


def _branches(module: hlo.Module, conditional: hlo.Instruction, context: _Context) -> Costs:
    """The branch that takes longest: an upper bound."""
    branches = [
        _computation(module, module.computations[name], [], _Context(channels=context.channels))
        for name in conditional.branches()
    ]
    return max(branches, key=lambda branch: (branch.cycles, branch.flops))


def _called(module: hlo.Module, caller: hlo.Instruction, context: _Context) -> Costs:
    name = caller.called("calls") or caller.called("to_apply")
    inner = module.computations.get(name)
    if inner is None:
        return Costs()
    if caller.opcode != "fusion":
        return _computation(module, inner, [], context)
    scattered = context.scattered or name.startswith("all-reduce-scatter")
    return _computation(
        module, inner, [], dataclasses.replace(context, fused=True, scattered=scattered)
    )


def _collective(
    computation: hlo.Computation, instruction: hlo.Instruction, context: _Context
) -> dict[Transfer, Traffic]:
    opcode = instruction.opcode.removesuffix("-start")
    kind = _ALIASES.get(opcode, opcode)
    if kind not in KINDS:
        return {}
    channel = re.search(r"channel_id=(\d+)", instruction.attributes)
    if context.fused and channel:
        if channel[1] in context.channels:
            return {}
        context.channels.add(channel[1])
    started = instruction.opcode.endswith("-start")
    given = sum(operand.nbytes for operand in computation.operands(instruction))
    received = instruction.nbytes
    if started and kind != "all-reduce":
        received -= given  # such a start returns its operands beside its results
    if kind == "collective-permute":
        received = given  # and here counters too
    if kind == "all-reduce" and context.scattered:
        kind = "reduce-scatter"  # on TPU: an all-reduce and a slice in one fusion
    transfer = Transfer(
        kind=kind,
        group=hlo.group_size(instruction.attributes),
        overlapped=started or (context.fused and kind != "reduce-scatter"),
    )
    return {transfer: Traffic(max(given, received), 1)}
