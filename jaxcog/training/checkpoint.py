"""Checkpoints of a run, through Orbax: asynchronous, atomic, verified before they are trusted.

On disk: `<workdir>/checkpoints/<step>/`, an Orbax checkpoint with the item "state" (nested dicts,
named by key path, so that it depends on no optax or jaxcog class), whose custom metadata holds
`meta` (JSON: data fingerprint, elapsed time, ...) and the metric by which the best one is kept;
beside them `checksums.json`. Orbax alone names no leaf of a tree that does not fit, casts dtypes
in silence, and does not notice a changed byte in an array: all three are checked here, first.
"""

from __future__ import annotations

import concurrent.futures
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from jaxcog.errors import CheckpointError
from jaxcog.training import checksums
from jaxcog.trees import like, nested, path_name, without_placeholders

try:
    import orbax.checkpoint.v1 as ocp
except ImportError:  # before its release under the final name
    import orbax.checkpoint.experimental.v1 as ocp

Tree = Any
PathLike = str | os.PathLike[str]
Best = Literal["max", "min"]

ITEM = "state"
FOLDER = "checkpoints"
FORMAT = 1
SHOWN_LEAVES = 20

# Every shape that is cut into parts for its replicas is one more program to compile, at the first
# save; arrays too small for that to pay are written by one replica.
SMALLEST_PART = 2**20  # bytes

_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run. Every process makes one and calls it in the same order.

    Args:
      directory: `<workdir>/checkpoints`, on a file system that all processes share.
      keep_last: how many of the newest stay.
      best: which metric is best; the best checkpoint stays too. None: the metric is ignored.
      report: told of every damaged checkpoint that is passed over; logged as a warning by default.
    """

    def __init__(
        self,
        directory: PathLike,
        *,
        keep_last: int,
        best: Best | None,
        report: Callable[[str], None] | None = None,
    ):
        self._directory = _absolute(directory)
        self._keep_last = keep_last
        self._best = best
        self._report = report or _log.warning
        self._headers: dict[int, dict[str, Any] | None] = {}
        self._damaged: set[int] = set()
        self._cleaned = False  # on the first save only: opening must not disturb a writer
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending: concurrent.futures.Future[None] | None = None

    @property
    def directory(self) -> epath.Path:
        return self._directory

    def steps(self) -> list[int]:
        """Steps on disk, ascending."""
        return _steps(self._directory)

    def latest(self) -> int | None:
        """The newest step, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step with the best metric, the first of equals; None where none was recorded."""
        return _best_step({step: self._header(step) for step in self.steps()}, self._best)

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """The meta of one step, or of the newest that can be read; empty where there is none."""
        for candidate in reversed(self.steps()) if step is None else (step,):
            header = self._header(candidate)
            if header is not None:
                return header["meta"]
        return {}

    def save(
        self, step: int, state: Tree, meta: Mapping[str, Any], metric: float | None = None
    ) -> None:
        """Starts writing a checkpoint; arrays may be donated as soon as this returns.

        A checkpoint that is there already at `step` is replaced.

        Args:
          meta: JSON values.
          metric: the same on every process; NaN counts as none.

        Raises:
          CheckpointError: this one could not be started, or the one before could not be written.
        """
        self.wait()
        metric = None if metric is None or not math.isfinite(metric) else float(metric)
        if not self._cleaned and jax.process_index() == 0:
            _remove_unfinished(self._directory)
        self._cleaned = True
        header = {"format": FORMAT, "meta": dict(meta), "metric": metric, "best": self._best}
        try:
            context = ocp.Context()
            context.array.saving.min_slice_bytes_for_replica_parallel = SMALLEST_PART
            with context:
                response = ocp.save_async(
                    self._directory / str(step),
                    nested(state),
                    checkpointable_name=ITEM,
                    overwrite=True,
                    custom_metadata=header,
                )
        except Exception as error:
            raise self._not_written(step, error) from error
        self._pending = self._pool.submit(self._finish, step, header, response)

    def wait(self) -> None:
        """Returns when nothing is being written any more.

        Raises:
          CheckpointError: a write failed (disk full, no permission); older checkpoints are intact.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Waits, and ends the background thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def restore(self, step: int | None, abstract_state: Tree) -> tuple[Tree, dict[str, Any]]:
        """Reads a checkpoint onto any mesh and number of processes.

        Args:
          step: None for the newest that is whole: damaged ones are reported and passed over.
          abstract_state: pytree of ShapeDtypeStructs with shardings.

        Returns:
          (state with the structure, dtypes and shardings of `abstract_state`, its meta).

        Raises:
          CheckpointError: there is none, it is damaged, or its leaves are not the model's.
        """
        self.wait()
        problems: list[str] = []
        candidate = _same_everywhere(self.latest() if step is None else step)
        while candidate is not None:
            try:
                state, header = _restore(self._directory / str(candidate), abstract_state)
            except _DamagedError as damage:
                self._damaged.add(candidate)
                problems.append(f"  step {candidate}: {damage}")
                if step is not None:
                    break
                older = max((s for s in self.steps() if s < candidate), default=None)
                candidate = _same_everywhere(older)
                if candidate is not None:
                    self._report(
                        f"checkpoint {problems[-1].strip()}; going back to step {candidate}"
                    )
            else:
                return state, header["meta"]
        others = [s for s in self.steps() if s not in self._damaged]
        remedy = f"whole ones may be {others}" if others else "start again in an empty workdir"
        raise CheckpointError(
            "\n".join([f"{self._directory}: no checkpoint can be restored; {remedy}", *problems])
        )

    def _finish(self, step: int, header: dict[str, Any], response: Any) -> None:
        try:
            response.result()
            self._headers[step] = header
            self._damaged.discard(step)
            if jax.process_index() == 0:
                checksums.write(self._directory / str(step))
                self._prune(step)
        except Exception as error:
            if jax.process_index() == 0:
                _remove_unfinished(self._directory)
            raise self._not_written(step, error) from error

    def _prune(self, newest: int) -> None:
        """Removes what is neither among the last nor the best; damaged ones do not count."""
        whole = {s: h for s in self.steps() if s not in self._damaged and (h := self._header(s))}
        keep = {*sorted(whole)[-self._keep_last :], _best_step(whole, self._best), newest}
        for step in self.steps():
            if step < newest and step not in keep:
                _remove(self._directory / str(step))
                self._headers.pop(step, None)

    def _header(self, step: int) -> dict[str, Any] | None:
        if step not in self._headers:
            try:
                self._headers[step] = _read_header(self._directory / str(step))[0]
            except (_DamagedError, CheckpointError):
                return None
        return self._headers[step]

    def _not_written(self, step: int, error: Exception) -> CheckpointError:
        whole = [s for s in self.steps() if s != step and self._header(s)]
        left = f"step {max(whole)} is intact" if whole else "there is no earlier one"
        return CheckpointError(
            f"checkpoint of step {step} could not be written to {self._directory} ({left}): "
            f"{_first_line(error)}\nfree disk space or check permissions, then start the run again"
        )


def resolve(path: PathLike, prefer: Literal["latest", "best"] = "latest") -> tuple[epath.Path, int]:
    """What a person may mean by a checkpoint: (workdir, step).

    Args:
      path: a workdir, its `checkpoints` folder, or the folder of one step.
      prefer: which step of several; "best" falls back to the latest where no metric was recorded.

    Raises:
      CheckpointError: there is none.
    """
    place = _absolute(path)
    if place.name.isdigit() and (place / ITEM).exists():
        above = place.parent
        return (above.parent if above.name == FOLDER else above), int(place.name)
    folder = place if place.name == FOLDER else place / FOLDER
    steps = _steps(folder)
    if not steps:
        raise CheckpointError(
            f"{path}: no checkpoint here; expected a run's workdir (with {FOLDER}/<step>/ in it), "
            f"its {FOLDER} folder, or the folder of one step"
        )
    if prefer == "best":
        headers = {}
        for step in steps:
            try:
                headers[step] = _read_header(folder / str(step))[0]
            except (_DamagedError, CheckpointError):
                continue
        mode = next((h["best"] for h in reversed(headers.values()) if h["best"]), None)
        best = _best_step(headers, mode)
        if best is not None:
            return folder.parent, best
    return folder.parent, max(steps)


def restore_tree(path: PathLike, only: Callable[[str], bool] | None = None) -> dict[str, Any]:
    """A checkpoint as nested dicts of NumPy arrays, whatever wrote it.

    Args:
      path: see `resolve`.
      only: given a leaf's path ("params/head/kernel"), whether to read it; all by default.

    Raises:
      CheckpointError: nothing there, damaged, or not a checkpoint of ours.
    """
    step_path = _step_path(path)
    try:
        _check_files(step_path)
        _, saved = _read_header(step_path)
        wanted = jax.tree_util.tree_map_with_path(
            lambda key, leaf: (
                np.empty(leaf.shape, leaf.dtype) if only is None or only(path_name(key)) else ...
            ),
            saved,
        )
        loaded = _load(step_path, wanted)
    except _DamagedError as damage:
        raise CheckpointError(
            f"{step_path}: damaged ({damage}); use another step of the run"
        ) from damage
    return without_placeholders(loaded)


def read_meta(path: PathLike) -> dict[str, Any]:
    """The `meta` that was saved with a checkpoint.

    Args:
      path: see `resolve`.

    Raises:
      CheckpointError: nothing there, damaged, or not a checkpoint of ours.
    """
    step_path = _step_path(path)
    try:
        return _read_header(step_path)[0]["meta"]
    except _DamagedError as damage:
        raise CheckpointError(
            f"{step_path}: damaged ({damage}); use another step of the run"
        ) from damage


def save_tree(path: PathLike, tree: Tree, meta: Mapping[str, Any], step: int = 0) -> None:
    """Writes a tree of arrays as the checkpoint `path/checkpoints/<step>`, and waits for it.

    Raises:
      CheckpointError: it could not be written.
    """
    checkpoints = Checkpoints(_absolute(path) / FOLDER, keep_last=1, best=None)
    try:
        checkpoints.save(step, tree, meta)
    finally:
        checkpoints.close()


def check_same_leaves(path: PathLike, saved: Tree, wanted: Tree) -> None:
    """Raises CheckpointError, naming every leaf that differs in path, shape or dtype (up to 20)."""
    have, want = _described(saved), _described(wanted)
    wrong = [
        f"  {name}: checkpoint {have.get(name, 'has none')}, model {want.get(name, 'has none')}"
        for name in sorted(have.keys() | want.keys())
        if have.get(name) != want.get(name)
    ]
    if not wrong:
        return
    more = [f"  ... and {len(wrong) - SHOWN_LEAVES} more"] if len(wrong) > SHOWN_LEAVES else []
    raise CheckpointError(
        "\n".join(
            [
                f"{path}: checkpoint and model differ in {len(wrong)} leaves:",
                *wrong[:SHOWN_LEAVES],
                *more,
                "it was written by another config: run with that one (config.json in its workdir), "
                "or choose an empty --workdir",
            ]
        )
    )


class _DamagedError(Exception):
    """Why a checkpoint cannot be trusted."""


def _restore(path: epath.Path, abstract_state: Tree) -> tuple[Tree, dict[str, Any]]:
    # Damage must be the same verdict on every process before the collective load begins: a process
    # that gave up alone would leave the others waiting.
    _together(lambda: _check_files(path))
    header, saved = _together(lambda: _read_header(path))
    check_same_leaves(path, saved, abstract_state)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=getattr(x, "sharding", None) or device
        ),
        abstract_state,
    )
    loaded = _together(lambda: _load(path, nested(wanted)))
    return like(abstract_state, loaded), header


def _check_files(path: epath.Path) -> None:
    try:
        problem = checksums.problem(path, jax.process_index(), jax.process_count())
    except OSError as error:
        raise _DamagedError(_first_line(error)) from error
    if problem:
        raise _DamagedError(problem)


def _load(path: epath.Path, wanted: Tree) -> Tree:
    try:
        return ocp.load(path, wanted, checkpointable_name=ITEM)
    except Exception as error:
        raise _DamagedError(_first_line(error)) from error


def _read_header(path: epath.Path) -> tuple[dict[str, Any], Tree]:
    """Our header, and the tree of what was saved (leaves with shape and dtype)."""
    if not path.exists():
        raise _DamagedError("it does not exist")
    try:
        metadata = ocp.metadata(path, ITEM)
    except Exception as error:
        raise _DamagedError(_first_line(error)) from error
    header = metadata.custom_metadata
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: an Orbax checkpoint, but not one that jaxcog wrote; official PyTorch "
            "checkpoints come in through `jaxcog import-torch`"
        )
    return header, metadata.metadata


def _together(read: Callable[[], Any]) -> Any:
    """The result of `read`, or the same kind of failure on every process."""
    result, damage = None, None
    try:
        result = read()
    except _DamagedError as error:
        damage = error
    if jax.process_count() > 1:
        bad = multihost_utils.process_allgather(np.int32(damage is not None))
        if damage is None and np.any(bad):
            damage = _DamagedError(f"process {int(np.argmax(bad))} could not read its part")
    if damage is not None:
        raise damage
    return result


def _same_everywhere(step: int | None) -> int | None:
    """Process 0's choice: directory listings may lag behind on a network file system."""
    if jax.process_count() == 1:
        return step
    chosen = multihost_utils.broadcast_one_to_all(np.int32(-1 if step is None else step))
    return None if int(chosen) < 0 else int(chosen)


def _best_step(headers: Mapping[int, dict[str, Any] | None], mode: Best | None) -> int | None:
    scored = {
        step: header["metric"]
        for step, header in sorted(headers.items())
        if header is not None and header["metric"] is not None
    }
    if mode is None or not scored:
        return None
    return (max if mode == "max" else min)(scored, key=scored.__getitem__)


def _steps(directory: epath.Path) -> list[int]:
    if not directory.exists():
        return []
    return sorted(int(entry.name) for entry in directory.iterdir() if entry.name.isdigit())


def _step_path(path: PathLike) -> epath.Path:
    absolute = _absolute(path)
    if absolute.name.isdigit() and (absolute / ITEM).exists():
        return absolute
    workdir, step = resolve(path)
    return workdir / FOLDER / str(step)


def _remove(path: epath.Path) -> None:
    # The marker goes first: a removal that is cut short must not leave a plausible checkpoint.
    for name in ("_CHECKPOINT_METADATA", "commit_success.txt"):
        (path / name).unlink(missing_ok=True)
    path.rmtree(missing_ok=True)


def _remove_unfinished(directory: epath.Path) -> None:
    """Removes what an interrupted or failed write left behind."""
    if directory.exists():
        for entry in directory.iterdir():
            if ".orbax-checkpoint-tmp" in entry.name:
                _remove_while_written(entry)


def _remove_while_written(folder: epath.Path) -> None:
    """Removes a folder to which threads of a failed write may still be adding files."""
    for _ in range(20):
        try:
            folder.rmtree(missing_ok=True)
            return
        except OSError:
            time.sleep(0.1)
    _log.warning("%s could not be removed; it is no checkpoint, and may be deleted", folder)


def _described(tree: Tree) -> dict[str, str]:
    return {
        path_name(path): f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:300] if text else 'no details'}"


def _absolute(path: PathLike) -> epath.Path:
    return epath.Path(path).expanduser().resolve()
