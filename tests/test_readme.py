"""The pages do what they say: the README's commands in tiny form, all snippets as they stand."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from jaxcog import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^launch/local (train .*)$", README, re.M)
VERBS = set(re.findall(r"`jaxcog ([a-z-]+)", README))
PAGES = sorted([ROOT / "README.md", *ROOT.glob("jaxcog/**/*.md")])
SLOW = ("jaxcog/systems/dlfs/README.md",)


def snippets(page: Path) -> list[str]:
    """Those that stand alone; files of the worked example are test_docs' business."""
    found = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    return [source for source in found if not source.startswith("# file: ")]


def with_snippets() -> list:
    names = [page.relative_to(ROOT).as_posix() for page in PAGES if snippets(page)]
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


@pytest.mark.parametrize("name", with_snippets())
def test_snippets_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A page's snippets one after another, in a folder with the files that they read."""
    monkeypatch.chdir(tmp_path)
    if "textreid" in name:
        write_clip(tmp_path / "ViT-B-32.pt")
    seen: dict = {}
    for source in snippets(ROOT / name):
        exec(compile(source, name, "exec"), seen)


def write_clip(path: Path) -> None:
    """A small CLIP text tower under the official names, without layers."""
    width = 64
    shapes = {
        "token_embedding.weight": (49408, width),
        "positional_embedding": (77, width),
        "text_projection": (width, 512),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    with path.open("wb") as file:
        np.savez(file, **{name: np.ones(shape, np.float16) for name, shape in shapes.items()})


def test_every_page_of_a_system_has_a_snippet():
    for page in ROOT.glob("jaxcog/systems/*/README.md"):
        assert snippets(page), page


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command: str, tmp_path: Path):
    assert cli.main([*command.split(), "--tiny", "--workdir", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").is_file()


def test_there_is_something_to_test():
    assert COMMANDS


def test_every_verb_is_in_the_readme(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main(["no-such-verb"])
    known = set(re.findall(r"'([a-z-]+)'", capsys.readouterr().err)) - {"no-such-verb"}
    assert known == VERBS


def test_launch_says_what_it_needs(tmp_path: Path):
    """Without a fitting Python: status 2 and one line, before anything is made."""
    done = subprocess.run(
        [str(ROOT / "launch/local"), "list"],
        env={"PATH": "/usr/bin:/bin", "JAXCOG_PYTHON": "no-python", "JAXCOG_VENV": f"{tmp_path}/v"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "JAXCOG_PYTHON" in done.stderr
    assert not (tmp_path / "v").exists()
