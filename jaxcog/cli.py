"""The `jaxcog` command: one small function a verb, no logic of its own.

Exit status: 0 done; 1 a claim did not hold, or a plan does not fit; 2 bad input (one message says
what, where, and the remedy); 130 after Ctrl-C and 143 after SIGTERM, both with everything saved.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from jaxcog import arguments
from jaxcog.errors import ConfigError, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status."""
    _quiet_libraries()
    parser = arguments.parser(VERBS)
    args, rest = parser.parse_known_args(argv)
    if rest and not args.settings:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return args.run(args, rest)
    except UserError as error:
        print(f"jaxcog {args.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted{_how_to_go_on(args)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _how_to_go_on(args: argparse.Namespace) -> str:
    if args.verb == "train":
        return "; the same command goes on from the last checkpoint"
    if args.verb == "reproduce" and args.all and args.out is not None:
        return f"; the same command goes on with what is not in {args.out} yet"
    return ""


def _quiet_libraries() -> None:
    """Leaves out what libraries log and no user can act on."""
    # Both only talk about hardware that is not there.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("ABSL_MIN_LOG_LEVEL", "2")
    # Orbax logs a failed write once from each of its threads; the error itself is reported by us.
    logging.getLogger("absl").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return "_SignalingThread.run() raised" not in record.getMessage()


def _need(args: argparse.Namespace, *names: str) -> bool:
    """Whether help was asked for and shown; complains about arguments that are missing."""
    if args.help:
        args.parser.print_help()
        return True
    missing = [name for name in names if not getattr(args, name)]
    if missing:
        called = {"out": "--out", "raw": "--raw", "path": "WORKDIR", "inputs": "INPUT"}
        flags = [called.get(name, name.upper()) for name in missing]
        listed = [flag.lower() for flag in flags if flag in ("CONFIG", "SYSTEM")]
        hint = f" (`jaxcog list` names every {listed[0]})" if listed else ""
        raise ConfigError(f"{' and '.join(flags)} missing{hint}; see `jaxcog {args.verb} --help`")
    return False


def _reporter() -> Any:
    import jax

    from jaxcog.training.progress import Silent, Terminal

    return Terminal() if jax.process_index() == 0 else Silent()


def _with_settings(experiment: Any, flags: list[str], prog: str) -> Any:
    """The experiment with typed flags on top; a typo exits with 2 and names the nearest flag."""
    import tyro

    from jaxcog.config import Experiment

    generic: Any = Experiment  # its parameters are known only now
    kind = generic[type(experiment.task), type(experiment.data)]
    return tyro.cli(kind, default=experiment, args=flags, prog=prog) if flags else experiment


def _experiment(args: argparse.Namespace, flags: list[str]) -> Any:
    from jaxcog import experiments

    entry = experiments.load(args.config)
    prog = f"jaxcog {args.verb} {entry.name}"
    return entry.name, _with_settings(entry.experiment(tiny=args.tiny), flags, prog)


def _start_devices() -> None:
    from jaxcog.training import distributed

    distributed.leave_out_absent_tpu()
    distributed.initialize_from_environment()


def _print(table: Any) -> None:
    from jaxcog import report

    print(report.text_table(table))


def _list(args: argparse.Namespace, _: list[str]) -> int:
    from jaxcog import experiments
    from jaxcog.show import Table

    if _need(args):
        return 0
    entries = [experiments.load(name) for name in experiments.names()]
    rows = [[entry.name, entry.summary, entry.needs] for entry in entries]
    if args.json:
        print(json.dumps([dict(zip(("config", "summary", "needs"), r, strict=True)) for r in rows]))
    else:
        _print(Table(title="", header=["config", "what it is", "needs"], rows=rows))
    return 0


def _train(args: argparse.Namespace, flags: list[str]) -> int:
    if args.help and args.config:
        _experiment(args, ["--help"])
    if _need(args, "config"):
        return 0
    name, experiment = _experiment(args, flags)
    _start_devices()
    from jaxcog import runs
    from jaxcog.training import workdir
    from jaxcog.training.profile import Profile

    reporter = _reporter()
    folder = args.workdir or workdir.default_workdir(name, experiment)
    profile = Profile.parse(args.profile, folder) if args.profile else None
    reporter.say(f"{name}: {folder}")
    outcome, table = runs.train(experiment, folder, name, reporter, profile)
    if outcome.status == "stopped":
        reporter.say(f"stopped and saved at step {outcome.step}; the same command goes on")
        return outcome.exit_status
    _print(table)
    reporter.say(f"report: {folder / workdir.REPORT_FILE}")
    return 0


def _eval(args: argparse.Namespace, flags: list[str]) -> int:
    if _need(args, "path"):
        return 0
    _start_devices()
    from jaxcog import runs

    def change(experiment: Any) -> Any:
        return _with_settings(experiment, flags, f"jaxcog eval {args.path}")

    restored = runs.restore(args.path, _reporter(), best=args.best, change=change)
    metrics = runs.evaluate(restored)
    if args.json:
        print(json.dumps({"config": restored.name, "step": restored.step, "metrics": metrics}))
    else:
        _print(runs.metrics_table(f"{restored.name}, step {restored.step}", metrics))
    return 0


def _predict(args: argparse.Namespace, _: list[str]) -> int:
    if _need(args, "path", "inputs", "out"):
        return 0
    _start_devices()
    from jaxcog import runs

    reporter = _reporter()
    restored = runs.restore(args.path, reporter, best=args.best, with_data=False)
    for path in runs.predict(restored, args.inputs, args.out):
        print(path)
    return 0


def _plan(args: argparse.Namespace, flags: list[str]) -> int:
    if args.all and not args.help:
        return _plan_all(args, flags)
    if _need(args, "config"):
        return 0
    _refuse_out(args)
    from jaxcog import experiments, plan

    name, experiment = _experiment(args, flags)
    slice_ = args.topology or experiments.load(name).slice or "v5e:4x4"
    found = plan.plan(experiment, slice_, name=name)
    _show(args, found.to_json(), found.text())
    return 1 if found.fits is False else 0


def _plan_all(args: argparse.Namespace, flags: list[str]) -> int:
    from jaxcog import overview

    _only_all(args, flags, "config", "topology", "tiny")
    rows = overview.plan_all(_reporter())
    table = overview.plan_table(rows, overview.provenance("jaxcog plan --all"))
    _show_table(args, rows, table)
    return 0 if all(row.get("fits", False) is not False for row in rows) else 1


def _bench(args: argparse.Namespace, flags: list[str]) -> int:
    if args.all and not args.help:
        return _bench_all(args, flags)
    if _need(args, "config"):
        return 0
    _refuse_out(args)
    _start_devices()
    from jaxcog import bench

    name, experiment = _experiment(args, flags)
    found = bench.bench(
        experiment,
        name=name,
        steps=args.steps,
        with_evaluation=args.evaluation,
        synthetic=args.synthetic,
    )
    _show(args, found.to_json(), found.text())
    return 0


def _bench_all(args: argparse.Namespace, flags: list[str]) -> int:
    from jaxcog import overview

    _only_all(args, flags, "config")
    rows = overview.bench_all(
        _reporter(), steps=args.steps, tiny=args.tiny, synthetic=args.synthetic
    )
    chosen = "".join(f" --{flag}" for flag in ("tiny", "synthetic") if getattr(args, flag))
    command = f"jaxcog bench --all{chosen}"
    _show_table(args, rows, overview.bench_table(rows, overview.provenance(command)))
    return 1 if any("error" in row for row in rows) else 0


def _reproduce(args: argparse.Namespace, _: list[str]) -> int:
    if _need(args, *([] if args.all else ["system"])):
        return 0
    _start_devices()
    from jaxcog import overview, reproduce

    if args.all:
        _only_all(args, [], "system")
        found = list(overview.reproduce_all(_reporter(), seeds=args.seeds, out=args.out))
        if args.out is not None:
            overview.write_all_claims(found, args.out)
    else:
        wanted = args.out is not None
        results = reproduce.reproduce(args.system, _reporter(), seeds=args.seeds, figures=wanted)
        found = [overview.SystemClaims(args.system, results)]
        if args.out is not None:
            overview.write_claims(found[0], args.out)
    return _show_claims(args, found)


def _show_claims(args: argparse.Namespace, found: Any) -> int:
    from jaxcog import overview

    held = all(one.held for one in found)
    if args.json:
        said = [overview.claims_json(one) for one in found]
        print(json.dumps({"held": held, "systems": said} if args.all else said[0]))
        return 0 if held else 1
    for one in found:
        for result in one.results:
            _print(result.table())
        print(f"{one.system}: {one.error or ('held' if one.held else 'NOT held')}")
    if args.all:
        _print(overview.claims_table(found))
    return 0 if held else 1


def _refuse_out(args: argparse.Namespace) -> None:
    if args.out is not None:
        raise ConfigError("--out holds the tables of --all: add --all, or use --json > FILE")


def _only_all(args: argparse.Namespace, flags: list[str], *names: str) -> None:
    """Raises ConfigError for what makes no sense beside --all."""
    given = [name for name in names if getattr(args, name)] + flags
    if given:
        raise ConfigError(f"{' and '.join(given)} cannot be combined with --all: leave one out")


def _show(args: argparse.Namespace, plain: Any, text: str) -> None:
    print(json.dumps(plain) if args.json else text)


def _show_table(args: argparse.Namespace, rows: Any, table: Any) -> None:
    """One table of many runs: printed, and as files in --out."""
    if args.out is not None:
        from jaxcog import report

        report.save_figures([table], args.out, title=table.title)
    if args.json:
        print(json.dumps(rows))
    else:
        _print(table)


def _import(args: argparse.Namespace, flags: list[str]) -> int:
    if _need(args, "system", "file", "out"):
        return 0
    from jaxcog import experiments, runs

    entry = experiments.load(experiments.default_of(args.system))
    prog = f"jaxcog import-torch {entry.name}"
    experiment = _with_settings(entry.experiment(), flags, prog)
    found = runs.import_torch(
        experiment, entry.name, args.file, args.out, allow_missing=args.allow_missing
    )
    _show(args, found.to_json(), found.text())
    return 0


def _prepare(args: argparse.Namespace, _: list[str]) -> int:
    if _need(args, "dataset", "raw"):
        return 0
    from jaxcog.data import builders

    found = builders.prepare(args.dataset, args.raw, args.out)
    _show(args, found.to_json(), found.text())
    return 0


VERBS: dict[str, arguments.Run] = {
    "list": _list,
    "train": _train,
    "eval": _eval,
    "predict": _predict,
    "plan": _plan,
    "bench": _bench,
    "reproduce": _reproduce,
    "import-torch": _import,
    "prepare": _prepare,
}


if __name__ == "__main__":
    sys.exit(main())
