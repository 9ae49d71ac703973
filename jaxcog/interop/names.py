"""Name tables: official PyTorch keys on one side, our variable paths on the other.

A system's `torch_names.py` is one such table. It is read in both directions: a checkpoint goes in
through `to_ours`, gradients and trained variables come out through `to_torch`, so that a table
that is wrong in one direction is found by the other.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcog.errors import CheckpointError

Tensors = Mapping[str, np.ndarray]
"""PyTorch key -> array, in PyTorch's layout."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one array is stored on either side; the two functions are each other's inverse."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


def transposed(*axes: int) -> Layout:
    """Our axis i is PyTorch's axis `axes[i]`."""
    back = tuple(int(axis) for axis in np.argsort(axes))
    return Layout(lambda x: np.transpose(x, axes), lambda x: np.transpose(x, back))


def reshaped(torch_shape: Sequence[int], our_shape: Sequence[int]) -> Layout:
    """The same numbers in the same order under another shape, e.g. [1, C, 1, 1] and [C]."""
    return Layout(lambda x: np.reshape(x, our_shape), lambda x: np.reshape(x, torch_shape))


def flatten_chw(channels: int, height: int, width: int) -> Layout:
    """A linear layer behind a flattened feature map.

    PyTorch flattens [C, H, W] (channel-major), we flatten [H, W, C]: weight [out, C*H*W] <->
    kernel [H*W*C, out].
    """

    def to_ours(x: np.ndarray) -> np.ndarray:
        x = np.reshape(x, (-1, channels, height, width))
        return np.reshape(np.transpose(x, (2, 3, 1, 0)), (height * width * channels, -1))

    def to_torch(x: np.ndarray) -> np.ndarray:
        x = np.reshape(x, (height, width, channels, -1))
        return np.reshape(np.transpose(x, (3, 2, 0, 1)), (-1, channels * height * width))

    return Layout(to_ours, to_torch)


def _flipped(x: np.ndarray) -> np.ndarray:
    return x[::-1, ::-1]


_SWAPPED = transposed(2, 3, 0, 1)

LAYOUTS: Mapping[str, Layout] = {
    "same": Layout(lambda x: x, lambda x: x),
    # OIHW <-> HWIO; grouped and depthwise kernels too. Also the kernel of a Linen ConvTranspose
    # with transpose_kernel=True.
    "conv": transposed(2, 3, 1, 0),
    "conv1d": transposed(2, 1, 0),
    "conv3d": transposed(2, 3, 4, 1, 0),
    "linear": transposed(1, 0),
    # [in, out, H, W] <-> [H, W, in, out] of a Linen ConvTranspose with transpose_kernel=False,
    # which slides the kernel unflipped where PyTorch scatters it.
    "conv_transpose": Layout(
        lambda x: _flipped(_SWAPPED.to_ours(x)), lambda x: _SWAPPED.to_torch(_flipped(x))
    ),
}


@dataclasses.dataclass(frozen=True)
class Rename:
    r"""One rule: keys that `torch` matches in full go to the path that `ours` spells.

    torch: regular expression. The table can be inverted without a list of keys where it is made
      of literals and unnested groups only, and `ours` repeats every group.
    ours: path such as r"params/layer\1_\2/conv\3/kernel". Several paths: the tensor is cut along
      its first axis into as many equal parts (a fused q/k/v projection, the gates of a GRU), and
      `layout` applies to every part.
    layout: a key of LAYOUTS, or a Layout.
    """

    torch: str
    ours: str | tuple[str, ...]
    layout: str | Layout = "same"

    def __post_init__(self) -> None:
        if isinstance(self.layout, str) and self.layout not in LAYOUTS:
            raise ValueError(
                f"Rename({self.torch!r}): layout {self.layout!r} is none of {', '.join(LAYOUTS)}"
            )

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    @property
    def converter(self) -> Layout:
        return LAYOUTS[self.layout] if isinstance(self.layout, str) else self.layout

    def paths(self, key: str) -> tuple[str, ...] | None:
        """Where `key` goes; None where this rule does not match it."""
        match = _compiled(self.torch).fullmatch(key)
        return None if match is None else tuple(match.expand(path) for path in self.targets)

    def split(self, tensor: np.ndarray) -> list[np.ndarray]:
        """The arrays of `targets`. Raises ValueError where the tensor cannot be cut or laid out."""
        parts = np.split(tensor, len(self.targets)) if len(self.targets) > 1 else [tensor]
        return [self.converter.to_ours(part) for part in parts]

    def join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The inverse of `split`."""
        tensors = [self.converter.to_torch(np.asarray(part)) for part in parts]
        return np.concatenate(tensors) if len(tensors) > 1 else tensors[0]

    def torch_key(self, part: int, path: str) -> str | None:
        """The key whose `part`-th target is `path`; None where there is none."""
        inverse = _inverse(self.torch, self.targets[part])
        if inverse is None:
            return None
        match = inverse[0].fullmatch(path)
        if match is None:
            return None
        key = "".join(
            match[f"g{piece}"] if isinstance(piece, int) else piece for piece in inverse[1]
        )
        targets = self.paths(key)
        return key if targets is not None and targets[part] == path else None


@dataclasses.dataclass(frozen=True)
class Ignore:
    """Keys that have no counterpart in our model, and are known not to matter."""

    torch: str


Rule = Rename | Ignore


def conv(torch_prefix: str, our_prefix: str) -> tuple[Rule, ...]:
    """Weight and bias (if any) of a 2-d convolution."""
    return (
        Rename(rf"{torch_prefix}\.weight", f"params/{our_prefix}/kernel", "conv"),
        Rename(rf"{torch_prefix}\.bias", f"params/{our_prefix}/bias"),
    )


def linear(torch_prefix: str, our_prefix: str, layout: str | Layout = "linear") -> tuple[Rule, ...]:
    """Weight and bias (if any) of a linear layer."""
    return (
        Rename(rf"{torch_prefix}\.weight", f"params/{our_prefix}/kernel", layout),
        Rename(rf"{torch_prefix}\.bias", f"params/{our_prefix}/bias"),
    )


def layer_norm(torch_prefix: str, our_prefix: str) -> tuple[Rule, ...]:
    """Scale and bias of a normalisation without running statistics."""
    return (
        Rename(rf"{torch_prefix}\.weight", f"params/{our_prefix}/scale"),
        Rename(rf"{torch_prefix}\.bias", f"params/{our_prefix}/bias"),
    )


def batch_norm(torch_prefix: str, our_prefix: str) -> tuple[Rule, ...]:
    """Scale, bias and running statistics of a batch normalisation; its counter is ignored."""
    return (
        *layer_norm(torch_prefix, our_prefix),
        Rename(rf"{torch_prefix}\.running_mean", f"batch_stats/{our_prefix}/mean"),
        Rename(rf"{torch_prefix}\.running_var", f"batch_stats/{our_prefix}/var"),
        Ignore(rf"{torch_prefix}\.num_batches_tracked"),
    )


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of a checkpoint's keys and of a model's variables.

    used: (PyTorch key, our path); a fused tensor appears once a path.
    ignored: keys that the table names as irrelevant. unused: keys that no rule matches.
    missing: paths of the model that nothing filled. mismatched: sentences, one a wrong array.
    cast: sentences, one for each array that was converted to the model's type.
    kept: paths of the model that were allowed to keep their initial values.
    """

    used: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    cast: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not (self.unused or self.missing or self.mismatched)

    def problems(self) -> list[str]:
        """One line for every key or path that keeps the checkpoint from fitting."""
        return [
            *self.mismatched,
            *(f"{path}: in the model, not in the checkpoint" for path in self.missing),
            *(f"{key}: in the checkpoint, unknown to the name table" for key in self.unused),
        ]

    def to_json(self) -> dict[str, list[Any]]:
        """Every field as a list."""
        return {name: list(value) for name, value in vars(self).items()}

    def text(self) -> str:
        """For a person: how many keys went where, then what did not simply fit."""
        lines = [
            f"{len({key for key, _ in self.used})} keys used, {len(self.ignored)} ignored, "
            f"{len(self.unused)} unused; {len(self.missing)} variables missing, "
            f"{len(self.kept)} left at their initial values",
            *(f"ignored: {key}" for key in self.ignored),
            *(f"converted: {line}" for line in self.cast),
            *(f"initial value: {path}" for path in self.kept),
        ]
        return "\n".join(lines)


class NameTable:
    """An ordered set of rules; the first that matches a key decides.

    rules: Rename and Ignore, or tuples of them (as `batch_norm` returns).
    """

    def __init__(self, rules: Iterable[Any]) -> None:
        self.rules: tuple[Rule, ...] = tuple(_flat_rules(rules))

    def rule(self, key: str) -> Rule | None:
        """The rule that decides about `key`."""
        for rule in self.rules:
            if _compiled(rule.torch).fullmatch(key):
                return rule
        return None

    def convert(self, tensors: Tensors) -> tuple[dict[str, Any], Report]:
        """Our nested variables, and what became of every key; raises nothing.

        Two keys may go to one path (a tensor shared under two names) if their values are equal.
        """
        flat: dict[str, np.ndarray] = {}
        source: dict[str, str] = {}
        used, ignored, unused, mismatched = [], [], [], []
        for key, tensor in tensors.items():
            rule = self.rule(key)
            if rule is None:
                unused.append(key)
                continue
            if isinstance(rule, Ignore):
                ignored.append(key)
                continue
            paths = rule.paths(key) or ()
            try:
                values = rule.split(np.asarray(tensor))
            except ValueError as error:
                shape = list(np.shape(tensor))
                mismatched.append(f"{key}: shape {shape} does not fit its rule ({error})")
                continue
            for path, value in zip(paths, values, strict=True):
                if path in flat and not np.array_equal(flat[path], value):
                    mismatched.append(f"{key} and {source[path]}: different values for {path}")
                flat[path], source[path] = value, key
                used.append((key, path))
        report = Report(tuple(used), tuple(ignored), tuple(unused), (), tuple(mismatched))
        return nested(flat), report

    def to_ours(self, tensors: Tensors) -> dict[str, Any]:
        """PyTorch tensors -> {"params": ..., "batch_stats": ...}, nested dicts of arrays.

        Raises CheckpointError naming every key that no rule matches or that does not fit.
        """
        tree, report = self.convert(tensors)
        if not report.ok:
            raise CheckpointError(_summary("the tensors do not fit the name table", report))
        return tree

    def to_torch(self, tree: Any, keys: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Our variables (or gradients of the same structure) under their PyTorch keys and layouts.

        tree: nested dicts below "params", "batch_stats"; parts of them may be absent.
        keys: known PyTorch keys; needed only where a rule cannot be inverted or several keys share
          one variable. Those without a counterpart in `tree` are left out.

        Raises CheckpointError naming every variable that no rule leads to.
        """
        flat = dict(flattened(tree))
        found = self._by_inversion(flat) if keys is None else self._by_lookup(keys)
        tensors: dict[str, np.ndarray] = {}
        reached: set[str] = set()
        for key, rule in found.items():
            paths = rule.paths(key) or ()
            if all(path in flat for path in paths):
                tensors[key] = rule.join([flat[path] for path in paths])
                reached.update(paths)
        lost = sorted(flat.keys() - reached)
        if lost:
            raise CheckpointError(
                "\n".join(
                    [
                        f"{len(lost)} variables have no PyTorch key in the name table:",
                        *(f"  {path}" for path in lost[:20]),
                        "add a rule, or pass keys= if the rule's expression cannot be inverted",
                    ]
                )
            )
        return tensors

    def _by_lookup(self, keys: Iterable[str]) -> dict[str, Rename]:
        rules = {key: self.rule(key) for key in keys}
        return {key: rule for key, rule in rules.items() if isinstance(rule, Rename)}

    def _by_inversion(self, paths: Iterable[str]) -> dict[str, Rename]:
        """One key for each path: of the first rule that leads there."""
        renames = [rule for rule in self.rules if isinstance(rule, Rename)]
        found: dict[str, Rename] = {}
        for path in paths:
            for rule in renames:
                candidates = (rule.torch_key(part, path) for part in range(len(rule.targets)))
                # A key whose first matching rule is another one would not come back here.
                keys = [key for key in candidates if key is not None and self.rule(key) == rule]
                if keys:
                    found[keys[0]] = rule
                    break
        return found


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = value
    return tree


def flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The inverse of `nested`; None leaves (no gradient) are left out."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from flattened(value, f"{path}/")
        elif value is not None:
            yield path, value


def _flat_rules(rules: Iterable[Any]) -> Iterator[Rule]:
    for rule in rules:
        if isinstance(rule, Rename | Ignore):
            yield rule
        else:
            yield from _flat_rules(rule)


def _summary(what: str, report: Report, shown: int = 30) -> str:
    problems = report.problems()
    more = [f"  ... and {len(problems) - shown} more"] if len(problems) > shown else []
    return "\n".join([f"{what}:", *(f"  {line}" for line in problems[:shown]), *more])


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


_SPECIAL = set("()[]{}?*+|^$.")


def _pieces(pattern: str) -> list[str | int] | None:
    r"""r"a\.(\d)b" -> ["a.", 1, "b"]: literals and group numbers; None where it holds more."""
    pieces: list[str | int] = []
    groups = position = 0
    while position < len(pattern):
        char = pattern[position]
        if char == "(":
            end = _group_end(pattern, position)
            if end is None:
                return None
            groups += 1
            pieces.append(groups)
            position = end
        elif char == "\\":
            escaped = pattern[position + 1]
            if escaped.isalnum():
                return None
            pieces.append(escaped)
            position += 2
        elif char in _SPECIAL:
            return None
        else:
            pieces.append(char)
            position += 1
    return pieces


def _group_end(pattern: str, start: int) -> int | None:
    """Index after the group that opens at `start`; None where it is not a plain, unnested one."""
    position = start + 1
    while position < len(pattern):
        char = pattern[position]
        if char == "(" or (char == "?" and position == start + 1):
            return None
        if char == ")":
            after = pattern[position + 1 : position + 2]
            return None if after in {"?", "*", "+", "{"} else position + 1
        position += 2 if char == "\\" else 1
    return None


@functools.cache
def _inverse(torch: str, ours: str) -> tuple[re.Pattern[str], tuple[str | int, ...]] | None:
    """(expression over our path with groups g1, g2, ..., pieces of the PyTorch key)."""
    pieces = _pieces(torch)
    if pieces is None:
        return None
    groups = _group_sources(torch)
    seen: set[int] = set()
    expression = ""
    for text in re.split(r"(\\\d+|\\g<\d+>)", ours):
        if not text.startswith("\\"):
            expression += re.escape(text)
            continue
        number = int(re.sub(r"\D", "", text))
        expression += f"(?P=g{number})" if number in seen else f"(?P<g{number}>{groups[number]})"
        seen.add(number)
    if seen != {piece for piece in pieces if isinstance(piece, int)}:
        return None
    return re.compile(expression), tuple(pieces)


def _group_sources(pattern: str) -> dict[int, str]:
    """Group number -> the expression inside it, for patterns that `_pieces` accepts."""
    sources: dict[int, str] = {}
    position = 0
    while position < len(pattern):
        if pattern[position] == "(":
            end = _group_end(pattern, position) or len(pattern)
            sources[len(sources) + 1] = pattern[position + 1 : end - 1]
            position = end
        else:
            position += 2 if pattern[position] == "\\" else 1
    return sources
