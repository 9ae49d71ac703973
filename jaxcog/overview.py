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
from jaxcog.errors import DataError, UserError
from jaxcog.planning import topology
from jaxcog.planning.hardware import size_text
from jaxcog.reproduce import ClaimResult
from jaxcog.show import Figure, Table
from jaxcog.training.progress import Reporter

SCALE = 8
"""`plan --all` compares each slice with one of so many times the chips and the batch."""


CLAIMS_FILE = "claims.json"


def provenance(command: str) -> str:
    """By which command, when and with which versions a table was made: one line."""
    return f"`{command}`, {_circumstances()}"


def _circumstances() -> str:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jaxcog", "jax", "flax")]
    where = f"Python {platform.python_version()}, {jax.default_backend()}"
    today = datetime.date.today().isoformat()
    return f"{today}, {', '.join(versions)}, {where}"


@dataclasses.dataclass(frozen=True)
class SystemClaims:
    """What `reproduce` said of one system; `error` where it could not be run.

    made: when and with which versions.
    """

    system: str
    results: Sequence[ClaimResult]
    error: str = ""
    made: str = dataclasses.field(default_factory=_circumstances)

    @property
    def held(self) -> bool:
        return not self.error and all(result.held for result in self.results)


def reproduce_all(
    reporter: Reporter, *, seeds: int | None = None, out: Path | None = None
) -> Iterator[SystemClaims]:
    """The claims of every system, one system after another.

    out: each system's results and pictures are written to a folder of its name in there, as soon
      as they are known; a system whose results lie there already is not run again.
    """
    for system in reproduce.systems():
        found = None if out is None else read_claims(system, out / system, seeds)
        if found is not None:
            reporter.say(f"{system}: {found.made}, in {out}; remove its folder to run it again")
            yield found
            continue
        reporter.say(f"{system}:")
        try:
            results = reproduce.reproduce(system, reporter, seeds=seeds, figures=out is not None)
            found = SystemClaims(system, results)
            if out is not None:
                write_claims(found, out / system)
            yield found
        except UserError as error:
            yield SystemClaims(system, (), str(error))
        jax.clear_caches()  # no two systems share a program


def claims_json(one: SystemClaims) -> dict[str, Any]:
    """What `reproduce --json` prints of one system."""
    plain = {
        "system": one.system,
        "held": one.held,
        "made": one.made,
        "claims": [result.to_json() for result in one.results],
    }
    return {**plain, "error": one.error} if one.error else plain


def read_claims(system: str, folder: Path, seeds: int | None = None) -> SystemClaims | None:
    """What `write_claims` left, without pictures; None where that is nothing, or of other claims.

    Raises:
      DataError: the file is damaged.
    """
    file = folder / CLAIMS_FILE
    if not file.is_file():
        return None
    try:
        said = json.loads(file.read_text())
        claims = reproduce.with_seeds(reproduce.claims_of(system), seeds)
        by_title = {one["title"]: one for one in said["claims"]}
        results = [
            reproduce.kept(claim, by_title[claim.title]) if claim.title in by_title else None
            for claim in claims
        ]
        made = str(said["made"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} cannot be read ({error!r}): remove its folder") from error
    whole = [result for result in results if result is not None]
    same = len(whole) == len(claims) == len(by_title)
    return SystemClaims(system, whole, made=made) if same else None


def claims_table(found: Sequence[SystemClaims], note: str = "") -> Table:
    """One row for each requirement of each claim."""
    rows: list[list[object]] = []
    for one in found:
        if one.error:
            rows.append([one.system, f"could not be run: {one.error}", "", "", "NO", ""])
        for result in one.results:
            for text, measured, held in result.checks:
                answer = "yes" if held else "NO"
                title, seeds = result.claim.title, result.claim.seeds
                value = f"{measured:.4g}"
                rows.append([one.system, title, text, value, answer, seeds])
    header = ["system", "claim", "required of the mean", "measured", "held", "seeds"]
    return Table(title="What the papers claim, checked", header=header, rows=rows, note=note)


def write_claims(one: SystemClaims, out: Path) -> None:
    """claims.json and claims.md, and index.html with every table and picture, in `out`."""
    note = f"`jaxcog reproduce {one.system}`, {one.made}"
    whole = dataclasses.replace(claims_table([one], note), title=f"{one.system}: claims, checked")
    figures: list[Figure] = [whole]
    for result in one.results:
        figures += [result.table(), *result.figures]
    report.save_figures(figures, out, title=whole.title)
    tables = [figure for figure in figures[1:] if isinstance(figure, Table)]
    _write_markdown(whole, tables, out)
    (out / CLAIMS_FILE).write_text(json.dumps(claims_json(one), indent=1) + "\n")


def write_all_claims(found: Sequence[SystemClaims], out: Path) -> None:
    """claims.md, and index.html that leads to each system's pictures, in `out`."""
    whole = claims_table(found, "`jaxcog reproduce --all`")
    tables = [
        dataclasses.replace(
            table,
            title=f"{one.system}: {table.title}",
            note=f"{table.note}\n{one.made}",
        )
        for one in found
        for table in (result.table() for result in one.results)
    ]
    pages = [(one.system, f"{one.system}/index.html") for one in found if one.results]
    report.save_figures([whole, *tables], out, title=whole.title, pages=pages)
    _write_markdown(whole, tables, out)


def _write_markdown(whole: Table, tables: Sequence[Table], out: Path) -> None:
    text = [report.markdown(whole), *(report.markdown(table, level=2) for table in tables)]
    (out / "claims.md").write_text("\n".join(text))


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


def bench_all(
    reporter: Reporter, *, steps: int, tiny: bool, synthetic: bool = False
) -> list[dict[str, Any]]:
    """`bench --json` of every system's default config, or {"config", "error"}."""
    rows = []
    for system in reproduce.systems():
        name = experiments.default_of(system)
        reporter.say(name)
        flags = ["--steps", str(steps)]
        flags += [flag for flag, on in (("--tiny", tiny), ("--synthetic", synthetic)) if on]
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
        read = row["input_batches_per_second"]
        cells.append(
            [
                row["config"],
                f"{row['devices']} x {row['device']}",
                row["batch_size"],
                f"{row['compile_seconds']:.1f} s",
                f"{row['step_seconds'] * 1e3:.4g} ms",
                f"{row['examples_per_second']:.4g}",
                "?" if row["mfu"] is None else f"{row['mfu']:.1%}",
                "?" if read is None else f"{read * row['step_seconds']:.3g}",
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
