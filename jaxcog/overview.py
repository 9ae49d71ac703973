"""One table over all systems: `reproduce --all`, `plan --all`, `bench --all`.

Plans and benchmarks run in a process each: one that fails leaves the others alone, and what the
compiler of one holds in memory is free for the next.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxcog import experiments, report, reproduce
from jaxcog.errors import UserError
from jaxcog.planning import topology
from jaxcog.planning.hardware import size_text
from jaxcog.reproduce import ClaimResult
from jaxcog.show import Figure, Table
from jaxcog.training.progress import Reporter

SCALE = 8
"""`plan --all` compares each slice with one of so many times the chips and the batch."""


def provenance(command: str) -> str:
    """When, with which versions and by which command a table was made: one line."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jaxcog", "jax", "flax")]
    where = f"Python {platform.python_version()}, {jax.default_backend()}"
    today = datetime.date.today().isoformat()
    return f"`{command}`, {today}, {', '.join(versions)}, {where}"


@dataclasses.dataclass(frozen=True)
class SystemClaims:
    """What `reproduce` said of one system; `error` where it could not be run."""

    system: str
    results: Sequence[ClaimResult]
    error: str = ""

    @property
    def held(self) -> bool:
        return not self.error and all(result.held for result in self.results)


def reproduce_all(reporter: Reporter, *, seeds: int | None = None) -> Iterator[SystemClaims]:
    """The claims of every system, one system after another, with figures."""
    for system in reproduce.systems():
        reporter.say(f"{system}:")
        try:
            results = reproduce.reproduce(system, reporter, seeds=seeds, figures=True)
            yield SystemClaims(system, results)
        except UserError as error:
            yield SystemClaims(system, (), str(error))
        jax.clear_caches()  # no two systems share a program


def claims_table(found: Sequence[SystemClaims], note: str = "") -> Table:
    """One row for each requirement of each claim."""
    rows: list[list[object]] = []
    for one in found:
        if one.error:
            rows.append([one.system, f"could not be run: {one.error}", "", "", "NO", "", ""])
        for result in one.results:
            seconds = f"{result.seconds:.0f}"
            for text, measured, held in result.checks:
                answer = "yes" if held else "NO"
                title, seeds = result.claim.title, result.claim.seeds
                value = f"{measured:.4g}"
                rows.append([one.system, title, text, value, answer, seeds, seconds])
    header = ["system", "claim", "required of the mean", "measured", "held", "seeds", "seconds"]
    return Table(title="What the papers claim, checked", header=header, rows=rows, note=note)


def write_claims(found: Sequence[SystemClaims], out: Path, command: str) -> list[Path]:
    """claims.md, and index.html with every table and picture, in `out`; pictures as files too."""
    whole = claims_table(found, provenance(command))
    tables = [(one.system, result) for one in found for result in one.results]
    figures: list[Figure] = [whole]
    for system, result in tables:
        figures.append(dataclasses.replace(result.table(), title=f"{system}: {result.claim.title}"))
        figures += [
            dataclasses.replace(figure, title=f"{system}: {figure.title}")
            for figure in result.figures
        ]
    written = report.save_figures(figures, out, title="What the papers claim, checked")
    text = [report.markdown(whole)]
    text += [report.markdown(figure) for figure in figures[1:] if isinstance(figure, Table)]
    target = out / "claims.md"
    target.write_text("\n".join(text))
    return [target, *written]


def plan_all(reporter: Reporter) -> list[dict[str, Any]]:
    """Every config that names its slice (SLICE), there and on a slice `SCALE` times larger.

    Returns:
      `plan --json` of each, or {"config", "topology", "error"}; "batch" beside it, and "seconds"
      that the plan took.
    """
    rows = []
    for name in experiments.names():
        entry = experiments.load(name)
        if entry.slice is None:
            continue
        batch = entry.experiment().train.batch_size
        small = topology.parse(entry.slice)
        large = topology.scaled(small, SCALE)
        for slice_, size in ((small, batch), (large, SCALE * batch)):
            if slice_ is None:
                continue
            reporter.say(f"{name} on {slice_}")
            flags = ["--topology", str(slice_), "--train.batch-size", str(size)]
            rows.append(_json_of(["plan", name, *flags], topology=str(slice_), batch=size))
    return rows


def plan_table(rows: Sequence[Mapping[str, Any]], note: str = "") -> Table:
    """`plan_all` for a person; bytes, FLOPs and time are per chip and step."""
    header = ["config", "slice", "batch", "fits", "memory", "of capacity", "TFLOPs", "step"]
    header += ["MFU", "collectives"]
    cells: list[list[object]] = []
    for row in rows:
        start = [row["config"], row["topology"], row["batch"]]
        if "error" in row:
            cells.append([*start, f"error: {row['error']}", *[""] * 6])
            continue
        memory, seconds, mfu = (
            row[key] for key in ("hbm_bytes_per_chip", "estimated_step_seconds", "estimated_mfu")
        )
        moved = row["collective_bytes"]
        cells.append(
            [
                *start,
                {True: "yes", False: "NO", None: "?"}[row["fits"]],
                size_text(memory) if memory else "?",
                f"{memory / row['hbm_capacity_bytes']:.0%}" if memory else "?",
                f"{row['flops_per_chip'] / 1e12:.3g}",
                f"{seconds * 1e3:.4g} ms" if seconds else "?",
                f"{mfu:.0%}" if mfu else "?",
                "?" if moved is None else size_text(sum(moved.values())),
            ]
        )
    return Table(title="Every config on its TPU slice", header=header, rows=cells, note=note)


def bench_all(reporter: Reporter, *, steps: int, tiny: bool) -> list[dict[str, Any]]:
    """`bench --json` of every system's default config, or {"config", "error"}."""
    rows = []
    for system in reproduce.systems():
        name = experiments.default_of(system)
        reporter.say(name)
        flags = ["--steps", str(steps), *(["--tiny"] if tiny else [])]
        rows.append(_json_of(["bench", name, *flags]))
    return rows


def bench_table(rows: Sequence[Mapping[str, Any]], note: str = "") -> Table:
    """`bench_all` for a person."""
    header = ["config", "devices", "batch", "compile", "step", "examples/s", "MFU", "input/step"]
    header += ["peak memory", "loop/step"]
    cells: list[list[object]] = []
    for row in rows:
        if "error" in row:
            cells.append([row["config"], f"error: {row['error']}", *[""] * 8])
            continue
        cells.append(
            [
                row["config"],
                f"{row['devices']} x {row['device']}",
                row["batch_size"],
                f"{row['compile_seconds']:.1f} s",
                f"{row['step_seconds'] * 1e3:.4g} ms",
                f"{row['examples_per_second']:.4g}",
                "?" if row["mfu"] is None else f"{row['mfu']:.1%}",
                f"{row['input_batches_per_second'] * row['step_seconds']:.3g}",
                size_text(row["peak_memory_bytes"]),
                f"{row['loop_over_bare_step']:.3f}",
            ]
        )
    return Table(title="Every system on this machine", header=header, rows=cells, note=note)


def _json_of(command: Sequence[str], **known: Any) -> dict[str, Any]:
    """What a verb says with --json, and how long it took; its message where it failed."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "jaxcog.cli", *command, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    known |= {"config": command[1], "seconds": round(time.monotonic() - began, 1)}
    try:
        return {**json.loads(done.stdout), **known}
    except json.JSONDecodeError:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return {**known, "error": lines[0] if done.returncode == 2 else lines[-1]}
