"""An experiment is one value: a frozen dataclass of a task, a dataset, a run and a mesh."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeVar

from jaxcog.errors import ConfigError

TaskConfig = TypeVar("TaskConfig")
DataConfig = TypeVar("DataConfig")

_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(step|epoch|example)s?\s*$")


def steps(duration: str, *, steps_per_epoch: int, batch_size: int, what: str = "duration") -> int:
    """Updates in a duration such as "200 steps", "50 epochs", "2.5 epochs" or "64000 examples"."""
    number, unit = parse_duration(duration, what)
    if unit == "step":
        return int(number)
    if unit == "epoch":
        return round(number * steps_per_epoch)
    return -(-int(number) // batch_size)


def parse_duration(duration: str, what: str = "duration") -> tuple[float, str]:
    """("2.5 epochs") -> (2.5, "epoch"). Raises ConfigError naming `what` if it does not parse."""
    match = _DURATION.match(duration)
    if match is None:
        raise ConfigError(
            f'{what}="{duration}": write a number and a unit, such as "200 steps", "50 epochs" '
            'or "64000 examples"'
        )
    return float(match[1]), match[2]


@dataclasses.dataclass(frozen=True)
class Train:
    """How long a run is, and what it does besides updates. Durations: "N steps|epochs|examples"."""

    duration: str = "10 epochs"
    batch_size: int = 64  # global, over all devices
    eval_batch_size: int = 256
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the arithmetic; parameters are float32
    evaluate_every: str = "1 epoch"
    checkpoint_every: str = "1 epoch"
    keep_last: int = 2
    keep_best: bool = True
    patience: int | None = None  # stop after so many evaluations without a better headline metric
    start_from: str | None = None  # workdir or checkpoint of an earlier stage
    start_fresh: tuple[str, ...] = ()  # regexes of variables that keep their initial values then
    watchdog_seconds: float = 900.0  # print all stacks when one step takes longer
    corrupt_limit: int = 0  # how many different undecodable records may be skipped
    workers: int = 0  # processes that read and decode; 0: threads in this process

    def __post_init__(self) -> None:
        for name in ("duration", "evaluate_every", "checkpoint_every"):
            parse_duration(getattr(self, name), f"train.{name}")
        for name in ("batch_size", "eval_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name}={getattr(self, name)}: must be at least 1")
        for name in ("keep_last", "corrupt_limit", "workers"):
            low = 1 if name == "keep_last" else 0
            if getattr(self, name) < low:
                raise ConfigError(f"train.{name}={getattr(self, name)}: must be at least {low}")
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"train.patience={self.patience}: must be at least 1, or None")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices per axis; -1 (on one axis) means what is left.

    data: replicas, each with its part of the batch. fsdp: also splits the batch, and parameters
    and optimizer states with it. model: splits tensors and classifiers inside a layer. space:
    splits image height.
    """

    data: int = -1
    fsdp: int = 1
    model: int = 1
    space: int = 1

    def __post_init__(self) -> None:
        sizes = dataclasses.asdict(self)
        bad = {name: n for name, n in sizes.items() if n != -1 and n < 1}
        if bad or sum(n == -1 for n in sizes.values()) > 1:
            raise ConfigError(f"mesh {sizes}: sizes must be positive, and at most one may be -1")


@dataclasses.dataclass(frozen=True)
class Experiment(Generic[TaskConfig, DataConfig]):
    """One run, completely: the value that configs/ files make and that `config.json` holds.

    system: the room under jaxcog/systems.
    task: the system's hyperparameters, with `build(setting) -> Task`.
    data: the dataset, with `describe() -> DataInfo` and `load() -> Splits`.
    """

    system: str
    task: TaskConfig
    data: DataConfig
    train: Train = dataclasses.field(default_factory=Train)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)


def to_json(value: Any) -> Any:
    """A dataclass (tuple, dict, ...) as plain JSON values; nested dataclasses carry their type."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": f"{type(value).__module__}.{type(value).__qualname__}", **fields}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {str(name): to_json(item) for name, item in value.items()}
    return value


def from_json(value: Any, where: str = "config.json") -> Any:
    """The inverse of `to_json`: lists become tuples, typed objects become their dataclasses.

    Raises:
      ConfigError: a type or field that this version of jaxcog does not have.
    """
    if isinstance(value, list):
        return tuple(from_json(item, where) for item in value)
    if not isinstance(value, dict):
        return value
    fields = {name: from_json(item, where) for name, item in value.items() if name != "type"}
    if "type" not in value:
        return fields
    module, _, name = value["type"].rpartition(".")
    if module.split(".")[0] != "jaxcog":
        raise ConfigError(f"{where}: the type {value['type']} is not one of jaxcog's")
    try:
        return getattr(importlib.import_module(module), name)(**fields)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{where}: cannot make {value['type']} ({error}); it was written by another version "
            "of jaxcog: use that version, or train anew"
        ) from error


def differences(a: Any, b: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Where two JSON values differ: {"train.seed": (0, 1)}; None where one has no such entry."""
    if isinstance(a, dict) and isinstance(b, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for name in dict.fromkeys([*a, *b]):
            inner = f"{path}.{name}" if path else name
            found |= differences(a.get(name), b.get(name), inner)
        return found
    return {} if a == b else {path: (a, b)}


def override(value: Any, changes: Mapping[str, Any]) -> Any:
    """A dataclass with some dotted fields replaced: {"train.seed": 3}.

    Raises:
      ConfigError: there is no such field.
    """
    for path, new in changes.items():
        value = _replace(value, path.split("."), new, path)
    return value


def _replace(value: Any, parts: list[str], new: Any, path: str) -> Any:
    head, rest = parts[0], parts[1:]
    names = [field.name for field in dataclasses.fields(value)]
    if head not in names:
        near = difflib.get_close_matches(head, names, n=1)
        hint = f"perhaps you meant {near[0]}" if near else f"there are {', '.join(names)}"
        raise ConfigError(f'no setting "{path}": {hint}')
    inner = _replace(getattr(value, head), rest, new, path) if rest else new
    return dataclasses.replace(value, **{head: inner})
