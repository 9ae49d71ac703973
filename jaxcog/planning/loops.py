"""How often a `while` of a compiled program runs."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from jaxcog.planning.hlo import Computation, Instruction, Module, attribute

# Counters are scalars; following arrays too would cost time that grows with the program's square.
_SCALAR_OR_TUPLE = re.compile(r"\(|\w+\[\]")
_TRANSPARENT = ("copy", "bitcast", "convert", "reshape", "copy-done", "optimization-barrier")


@dataclasses.dataclass(frozen=True)
class _Carried:
    """Entry `index` of what a loop carries, plus a constant."""

    index: int
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class _Compared:
    left: Any
    right: Any
    direction: str


def trip_count(
    module: Module, computation: Computation, loop: Instruction, arguments: list[Any]
) -> tuple[int | None, list[Any]]:
    """Iterations of `loop`, and what is constant in what it carries.

    Compilers for CPU and GPU write the count down; for TPU it follows from the start, the step and
    the bound of the counter that the condition compares.

    Args:
      computation: where `loop` stands.
      arguments: values of that computation's parameters: an integer, a list of values (a tuple),
        or None where a value is not known.

    Returns:
      (count, or None where it does not follow; the entries of the loop's tuple that are constant
      integers throughout, None elsewhere).
    """
    initial = _Frame(module, computation, arguments).value(loop.operands[0])
    initial = _list(initial, 0)
    body = module.computations[loop.called("body")]
    carried: list[Any] = [_Carried(index) for index in range(len(initial))]
    after = _list(_Frame(module, body, [carried]).result(), len(initial))
    constants = [
        value if isinstance(value, int) and after[index] == _Carried(index) else None
        for index, value in enumerate(initial)
    ]
    known = re.search(r"known_trip_count\W+n\W+(\d+)", loop.attributes)
    if known:
        return int(known[1]), constants
    # Again, now that it is known what stays the same: the step and the bound may be carried too.
    carried = [_Carried(index) if value is None else value for index, value in enumerate(constants)]
    after = _list(_Frame(module, body, [carried]).result(), len(initial))
    condition = module.computations[loop.called("condition")]
    test = _Frame(module, condition, [carried]).result()
    return _count(test, initial, after), constants


def _list(value: Any, length: int) -> list[Any]:
    return value if isinstance(value, list) else [None] * length


def _count(test: Any, initial: list[Any], after: list[Any]) -> int | None:
    if not isinstance(test, _Compared):
        return None
    left, right, direction = test.left, test.right, test.direction
    if isinstance(left, int) and isinstance(right, _Carried):
        left, right = right, left
        direction = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}.get(direction, direction)
    if not (isinstance(left, _Carried) and isinstance(right, int)):
        return None
    start, advanced = initial[left.index], after[left.index]
    if not (isinstance(start, int) and isinstance(advanced, _Carried)):
        return None
    step = advanced.offset
    if step == 0 or advanced.index != left.index:
        return None
    if direction not in (("LT", "LE", "NE") if step > 0 else ("GT", "GE", "NE")):
        return None
    distance = (right - start - left.offset) * (1 if step > 0 else -1)
    if direction in ("LE", "GE"):
        distance += 1
    return max(0, -(-distance // abs(step)))


class _Frame:
    """One run of a computation with these arguments: its values, each found once.

    A program's values form a graph, not a tree: without the memory every path through it would be
    walked, and their number grows exponentially with its depth.
    """

    def __init__(self, module: Module, computation: Computation, arguments: list[Any]) -> None:
        self._module, self._computation, self._arguments = module, computation, arguments
        self._known: dict[str, Any] = {}

    def result(self) -> Any:
        """What the computation returns."""
        return self.value(self._computation.root)

    def value(self, name: str) -> Any:
        """What `name` is: an integer, a carried entry, a comparison, a list of these, or None."""
        if name not in self._known:
            self._known[name] = self._found(self._computation.instructions.get(name))
        return self._known[name]

    def _found(self, instruction: Instruction | None) -> Any:
        if instruction is None or not _SCALAR_OR_TUPLE.match(instruction.shape):
            return None
        opcode, operands = instruction.opcode, instruction.operands
        if opcode == "parameter":
            number = int(instruction.argument)
            return self._arguments[number] if number < len(self._arguments) else None
        if opcode == "constant":
            text = instruction.argument.strip()
            return int(text) if re.fullmatch(r"-?\d+", text) else None
        if opcode in _TRANSPARENT:
            return self.value(operands[0])
        if opcode == "tuple":
            return [self.value(operand) for operand in operands]
        if opcode == "get-tuple-element":
            whole = self.value(operands[0])
            index = int(attribute(r"index=(\d+)", instruction)[1])
            return whole[index] if isinstance(whole, list) and index < len(whole) else None
        if opcode in ("add", "subtract"):
            sign = 1 if opcode == "add" else -1
            return _sum(self.value(operands[0]), self.value(operands[1]), sign)
        if opcode == "compare":
            direction = attribute(r"direction=(\w+)", instruction)[1]
            return _Compared(self.value(operands[0]), self.value(operands[1]), direction)
        if opcode in ("fusion", "call"):
            called = instruction.called("calls") or instruction.called("to_apply")
            inner = self._module.computations.get(called)
            values = [self.value(operand) for operand in operands]
            return _Frame(self._module, inner, values).result() if inner else None
        return None


def _sum(left: Any, right: Any, sign: int) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        return left + sign * right
    if isinstance(left, _Carried) and isinstance(right, int):
        return _Carried(left.index, left.offset + sign * right)
    if isinstance(left, int) and isinstance(right, _Carried) and sign == 1:
        return _Carried(right.index, right.offset + left)
    return None
