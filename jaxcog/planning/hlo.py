"""Reading a compiled program: the text of optimised HLO, as `Compiled.as_text()` gives it.

Only what the estimates need is understood: which computation calls which, shapes, window and
dimension labels of convolutions, and the compiler's own `estimated_cycles`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

from jaxcog.planning.flops import Window, convolution_flops

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\]")
_CALLED_LISTS = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    argument: str  # the text between the parentheses: a constant's value, a parameter's number
    attributes: str

    @functools.cached_property
    def dims(self) -> tuple[int, ...]:
        """Dimensions of an array (the first, of a tuple)."""
        match = _ARRAY.search(self.shape)
        return _numbers(match[2]) if match else ()

    @functools.cached_property
    def nbytes(self) -> int:
        """Bytes of the result, all parts of a tuple together, without padding."""
        return sum(
            math.prod(_numbers(dims)) * _bits(dtype) // 8
            for dtype, dims in _ARRAY.findall(self.shape)
        )

    @functools.cached_property
    def estimated_cycles(self) -> int:
        match = _CYCLES.search(self.attributes)
        return int(match[1]) if match else 0

    def called(self, kind: str) -> str:
        """The computation that this instruction names as its `kind` ("body", "calls", ...)."""
        match = re.search(rf"\b{kind}=%?([\w.\-]+)", self.attributes)
        return match[1] if match else ""

    def branches(self) -> list[str]:
        """The computations among which a conditional chooses."""
        lists = _CALLED_LISTS.search(self.attributes)
        if lists:
            return [name.strip().lstrip("%") for name in lists[1].split(",")]
        return [self.called("true_computation"), self.called("false_computation")]


@dataclasses.dataclass(frozen=True)
class Computation:
    """A function of the module; instructions by name, in the order of the text."""

    name: str
    instructions: dict[str, Instruction]
    root: str

    def operands(self, instruction: Instruction) -> Iterator[Instruction]:
        return (self.instructions[name] for name in instruction.operands)


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: its computations by name, and the name of the one where it starts."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """The module in `text`.

    Raises:
      ValueError: there is no ENTRY computation.
    """
    computations: dict[str, Computation] = {}
    entry = name = root = ""
    found: dict[str, Instruction] = {}
    for line in text.splitlines():
        if not name:
            header = _HEADER.match(line)
            if header:
                name, root, found = header[2], "", {}
                entry = name if header[1] else entry
        elif line.startswith("}"):
            computations[name] = Computation(name, found, root or next(reversed(found), ""))
            name = ""
        else:
            match = _INSTRUCTION.match(line)
            if match:
                found[match[2]] = _instruction(match[2], match[3])
                root = match[2] if match[1] else root
    if not entry:
        raise ValueError("parse: the text holds no ENTRY computation; is it HLO?")
    return Module(computations, entry)


def attribute(pattern: str, instruction: Instruction) -> re.Match[str]:
    """Where an instruction's attributes match. Raises ValueError where they do not."""
    found = re.search(pattern, instruction.attributes)
    if found is None:
        raise ValueError(f"{instruction.opcode} without {pattern}: {instruction.attributes}")
    return found


def dot_flops(computation: Computation, instruction: Instruction) -> int:
    """FLOPs of a `dot` or `convolution`; 0 for every other instruction."""
    if instruction.opcode == "dot":
        lhs = next(computation.operands(instruction)).dims
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        contracted = math.prod(lhs[axis] for axis in _numbers(axes[1])) if axes else 1
        return 2 * math.prod(instruction.dims) * contracted
    if instruction.opcode != "convolution":
        return 0
    lhs, rhs = (operand.dims for operand in computation.operands(instruction))
    lhs_labels, rhs_labels, out_labels = attribute(
        r"dim_labels=(\w+)_(\w+)->(\w+)", instruction
    ).groups()
    out = instruction.dims
    spatial = sorted(label for label in out_labels if label.isdigit())
    window = _window(instruction.attributes, len(spatial))
    windows = [
        Window(
            input=lhs[lhs_labels.index(label)],
            kernel=rhs[rhs_labels.index(label)],
            output=out[out_labels.index(label)],
            stride=window["stride"][axis],
            pad=window["pad"][axis],
            input_dilation=window["lhs_dilate"][axis],
            kernel_dilation=window["rhs_dilate"][axis],
        )
        for axis, label in enumerate(spatial)
    ]
    return convolution_flops(
        batch=out[out_labels.index("b")],
        inputs_per_group=rhs[rhs_labels.index("i")],
        outputs=out[out_labels.index("f")],
        windows=windows,
    )


def group_size(attributes: str) -> int | None:
    """How many devices take part in one instance of a collective; None where it is not said.

    Three notations exist: {{0,1},{2,3}}, [2,4]<=[8] and mesh['x'=4,'y'=2] {'x'}.
    """
    lists = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    if lists:
        return len(_numbers(lists[1]))
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", attributes)
    if iota:
        return int(iota[2])
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes)
    if mesh:
        sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        return math.prod(sizes.get(axis, 1) for axis in re.findall(r"'([^']+)'", mesh[2]))
    return None


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) if text.startswith("(") else text.find(" ")
    shape, rest = text[:end], text[end:]
    opcode = _OPCODE.match(rest)
    if opcode is None:
        return Instruction(name, shape, "", (), "", rest)
    start = opcode.end() - 1
    stop = _closing(rest, start)
    argument = rest[start + 1 : stop - 1]
    operands = re.findall(r"%([\w.\-]+)", argument)
    if not operands and opcode[1] not in ("constant", "parameter", "iota"):
        # Unoptimised text has no percent signs: the names are then the last word of each part.
        operands = [part.split()[-1] for part in _split(argument) if part.strip()]
    return Instruction(name, shape, opcode[1], tuple(operands), argument, rest[stop:])


def _closing(text: str, start: int) -> int:
    """Index after the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index + 1
    return len(text)


def _split(text: str) -> list[str]:
    """Parts between the commas outside brackets."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number.lstrip("<=")) for number in text.split(",") if number)


def _bits(dtype: str) -> int:
    if dtype == "pred":
        return 8
    match = re.match(r"[a-z]+(\d+)", dtype)
    return int(match[1]) if match else 0


def _window(attributes: str, rank: int) -> dict[str, list[int]]:
    """Strides, dilations and leading padding of `window={size=3x3 stride=2x2 pad=1_1x1_1}`."""
    match = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=", 1) for part in match[1].split()) if match else {}
    defaults = {"stride": 1, "pad": 0, "lhs_dilate": 1, "rhs_dilate": 1}
    return {
        name: [int(part.split("_")[0]) for part in fields[name].split("x")]
        if name in fields
        else [default] * rank
        for name, default in defaults.items()
    }
