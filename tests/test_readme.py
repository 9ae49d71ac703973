"""The README does what it says: its commands in tiny form, its snippets as they stand."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from jaxcog import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = re.findall(r"^launch/local (train .*)$", README, re.M)
VERBS = set(re.findall(r"`jaxcog ([a-z-]+)", README))


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_run(snippet: str):
    exec(compile(snippet, "README.md", "exec"), {})


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command: str, tmp_path: Path):
    assert cli.main([*command.split(), "--tiny", "--workdir", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").is_file()


def test_there_is_something_to_test():
    assert SNIPPETS
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
