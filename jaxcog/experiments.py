"""Finding and loading the experiments under configs/.

A config file has NEEDS (what must be there to run it), `experiment()` and `tiny()`; optionally
DEFAULT = True (it is what the system's bare name means) and SLICE (the TPU slice that it is meant
for, such as "v5e:4x4").
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
from pathlib import Path
from types import ModuleType

from jaxcog.config import Experiment
from jaxcog.errors import ConfigError

_PACKAGE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Entry:
    """One config file: its name ("mixstyle/digits"), its first docstring line, what it needs."""

    name: str
    summary: str
    needs: str
    module: ModuleType
    is_default: bool = False  # what the system's bare name means (DEFAULT = True in the file)
    slice: str | None = (
        None  # TPU slice that it is meant for, such as "v5e:4x4" (SLICE in the file)
    )

    def experiment(self, *, tiny: bool = False) -> Experiment:
        """The experiment at its full size, or the variant that a laptop runs in seconds."""
        return self.module.tiny() if tiny else self.module.experiment()


def config_root() -> Path:
    """The folder of experiments: configs/ of the source tree, or its copy in an installed wheel."""
    installed = _PACKAGE / "_configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def names() -> list[str]:
    """Every experiment, as "system/name", sorted."""
    root = config_root()
    return sorted(
        path.relative_to(root).with_suffix("").as_posix()
        for path in root.glob("*/*.py")
        if not path.name.startswith("_")
    )


def load(name: str) -> Entry:
    """The experiment called `name`.

    Raises:
      ConfigError: there is none of that name (the nearest names are given).
    """
    known = names()
    name = name.removesuffix(".py").removeprefix("configs/")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"perhaps you meant {' or '.join(near)}; " if near else ""
        raise ConfigError(
            f'there is no config "{name}": {hint}`jaxcog list` shows all {len(known)}'
        )
    path = config_root() / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"jaxcog_config.{name.replace('/', '.')}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: Python cannot load it")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    summary = (module.__doc__ or "").strip().splitlines()[0]
    default, slice_ = getattr(module, "DEFAULT", False), getattr(module, "SLICE", None)
    return Entry(name, summary, module.NEEDS, module, default, slice_)


def default_of(system: str) -> str:
    """The config meant by a system's bare name: the one marked DEFAULT = True.

    A full config name stands for itself.
    """
    if "/" in system:
        return system
    own = [name for name in names() if name.startswith(f"{system}/")]
    if not own:
        known = sorted({name.split("/")[0] for name in names()})
        raise ConfigError(f'there is no system "{system}": there are {", ".join(known)}')
    return next((name for name in own if load(name).is_default), own[0])
