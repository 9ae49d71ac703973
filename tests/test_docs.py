"""The pages say what is so: the worked example trains, links lead somewhere, snippets run."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from jaxcog import experiments
from jaxcog.training import loop
from jaxcog.training.progress import Silent

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("jaxcog/**/*.md"), *ROOT.glob(".github/*.md")])
ROOMS = sorted(ROOT.glob("jaxcog/systems/*/README.md"))


def code(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"\w+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_configs_that_are_named_exist(page: Path):
    known = set(experiments.names()) | {"example/digits"}
    systems = {path.parent.name for path in ROOMS}
    commands = r"(?:jaxcog|launch/local|--) (?:train|plan|bench|import-torch) ([\w/]+)"
    used = re.findall(commands, page.read_text())
    for name in used:
        if name != name.upper() and not name.endswith("/CONFIG"):
            assert name in known | systems, name


def test_the_worked_example_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = {}
    for source in code(ROOT / "jaxcog/docs/architecture.md"):
        path = re.match(r"# file: (\S+)\.py\n", source)[1]
        name = path.replace("/", ".")
        blocks[name] = module = types.ModuleType(name)
        parent = name.rpartition(".")[0]
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(source, f"{path}.py", "exec"), module.__dict__)
    experiment = blocks["configs.example.digits"].experiment()
    outcome = loop.train(experiment, tmp_path, "example/digits", Silent())
    assert outcome.metrics["accuracy"] > 50
