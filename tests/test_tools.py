"""What CONTRIBUTING asks for before a commit, where those tools are installed (the extra dev)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.slow
def test_types_fit():
    pytest.importorskip("mypy")
    run("-m", "mypy")


@pytest.mark.slow
def test_api_pages_are_made_without_a_warning(tmp_path: Path):
    pytest.importorskip("pdoc")
    run("-W", "error", "-m", "pdoc", "-d", "google", "-o", str(tmp_path), "jaxcog")
    assert (tmp_path / "jaxcog.html").is_file()


@pytest.mark.slow
def test_style():
    pytest.importorskip("ruff")
    run("-m", "ruff", "check", "--quiet")
    run("-m", "ruff", "format", "--check", "--quiet")
