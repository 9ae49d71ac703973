"""What can be said to the `jaxcog` command: verbs, arguments, and their help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

_DESCRIPTION = "Ten papers on perception, retrieval, imagination and few-shot adaptation, in JAX."
_EPILOG = "Settings of a config: `jaxcog train CONFIG --help`. Where to begin: `jaxcog list`."
_RUN = "folder of a run, or of one of its checkpoints"

Run = Callable[[argparse.Namespace, list[str]], int]
"""(arguments, the settings that follow them) -> exit status."""


def parser(runs: Mapping[str, Run]) -> argparse.ArgumentParser:
    """One subparser a verb; `runs` says what runs each."""
    whole = argparse.ArgumentParser(prog="jaxcog", description=_DESCRIPTION, epilog=_EPILOG)
    verbs = whole.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(
        name: str,
        text: str,
        more: str = "",
        settings: str = "",
    ) -> argparse.ArgumentParser:
        """settings: an example of a config's field, where further flags set such fields."""
        tail = f"Further flags set fields of the config, such as {settings}." if settings else ""
        sub = verbs.add_parser(
            name,
            help=text,
            description=" ".join(filter(None, [text, more, tail])),
            allow_abbrev=False,
            add_help=False,
        )
        sub.set_defaults(run=runs[name], settings=bool(settings), verb=name)
        sub.add_argument("-h", "--help", action="store_true", help="show this help")
        sub.set_defaults(parser=sub)
        return sub

    verb("list", "Every system and config, with what it needs.").add_argument(
        "--json", action="store_true", help="as JSON"
    )

    sub = verb(
        "train",
        "Train a config, or go on where it stopped.",
        "The workdir holds settings, metrics, checkpoints and, at the end, report.html. "
        "`jaxcog train CONFIG --help` shows all settings.",
        settings="--train.seed 3",
    )
    sub.add_argument("config", nargs="?", metavar="CONFIG", help="such as mixstyle/digits")
    sub.add_argument("--workdir", type=Path, help="folder of the run (default: under runs/)")
    sub.add_argument("--tiny", action="store_true", help="the tiny variant, on generated data")
    sub.add_argument("--profile", metavar="START:STOP", help="trace these updates to WORKDIR")

    sub = verb(
        "eval",
        "The paper's metrics of a run, or of one checkpoint.",
        "On whatever devices there are.",
        settings="--data.root DIR",
    )
    sub.add_argument("path", nargs="?", type=Path, metavar="WORKDIR", help=_RUN)
    sub.add_argument("--best", action="store_true", help="the best checkpoint, not the newest")
    sub.add_argument("--json", action="store_true", help="as JSON")

    sub = verb(
        "predict",
        "Pictures of what a trained run says about files.",
        "What a system reads (images, sentences, features of videos) is on its page.",
    )
    sub.add_argument("path", nargs="?", type=Path, metavar="WORKDIR", help=_RUN)
    sub.add_argument("inputs", nargs="*", type=Path, metavar="INPUT", help="files or folders")
    sub.add_argument("--out", type=Path, help="folder for the pictures and index.html")
    sub.add_argument("--best", action="store_true", help="the best checkpoint, not the newest")

    sub = verb(
        "plan",
        "Compile for a TPU slice without one; see if it fits.",
        "Memory per chip, FLOPs, estimated time, bytes of the collectives; needs no accelerator. "
        "Exit status 1 if it does not fit.",
        settings="--train.batch-size 1024",
    )
    sub.add_argument("config", nargs="?", metavar="CONFIG", help="such as gald/cityscapes")
    sub.add_argument(
        "--topology", help="such as v5e:4x4 or v5p:2x2x2 (default: what the config is meant for)"
    )
    _add_all(sub, "every config, on its slice and on one eight times larger")
    sub.add_argument("--tiny", action="store_true", help="the tiny variant")
    sub.add_argument("--json", action="store_true", help="as JSON")

    sub = verb(
        "bench",
        "Measure a config's step and input pipeline.",
        "On this machine: time of a step, of compiling, of reading data; peak memory.",
        settings="--train.batch-size 64",
    )
    sub.add_argument("config", nargs="?", metavar="CONFIG", help="such as mixstyle/digits")
    sub.add_argument("--steps", type=int, default=30, help="updates to time")
    sub.add_argument(
        "--evaluation", action="store_true", help="also evaluation in batches and one at a time"
    )
    sub.add_argument(
        "--synthetic", action="store_true", help="on made-up batches: the step without its data"
    )
    _add_all(sub, "the default config of every system")
    sub.add_argument("--tiny", action="store_true", help="the tiny variant")
    sub.add_argument("--json", action="store_true", help="as JSON")

    sub = verb(
        "reproduce",
        "Check a paper's claim on data that ships.",
        "The method on against the method off over several seeds, in a few minutes on a CPU. "
        "Exit status 1 if the claim did not hold.",
    )
    sub.add_argument("system", nargs="?", metavar="SYSTEM", help="such as mixstyle")
    sub.add_argument("--seeds", type=int, help="runs per setting (default: the claim's own)")
    _add_all(sub, "every system, one table; what --out holds already is not run again")
    sub.add_argument("--json", action="store_true", help="as JSON")

    sub = verb(
        "import-torch",
        "Official PyTorch checkpoint to a run.",
        "`jaxcog eval` and `predict` then take its folder. PyTorch is not needed.",
        settings="--data.root DIR",
    )
    sub.add_argument("system", nargs="?", metavar="SYSTEM", help="a system, or one of its configs")
    sub.add_argument("file", nargs="?", type=Path, metavar="FILE", help=".pth, .safetensors, ...")
    sub.add_argument("--out", type=Path, help="folder for the imported run")
    sub.add_argument(
        "--allow-missing",
        action="append",
        default=[],
        metavar="REGEX",
        help="variables that keep their initial values, such as '^params/classifier/'",
    )
    sub.add_argument("--json", action="store_true", help="as JSON")

    sub = verb(
        "prepare",
        "A dataset as distributed to ArrayRecord files.",
        "Every file is checked, and bad ones are named. A name that is unknown lists all datasets.",
    )
    sub.add_argument("dataset", nargs="?", metavar="DATASET", help="such as pacs")
    sub.add_argument("--raw", type=Path, help="folder with the dataset as distributed")
    sub.add_argument("--out", type=Path, help="where it goes (default: ~/jaxcog_data)")
    sub.add_argument("--json", action="store_true", help="as JSON")
    return whole


def _add_all(sub: argparse.ArgumentParser, text: str) -> None:
    sub.add_argument("--all", action="store_true", help=text)
    sub.add_argument("--out", type=Path, help="folder for tables and pictures")
