"""The pages say what is so: the worked example trains, links lead somewhere, snippets run."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import sys
import types
from pathlib import Path

import pytest

import jaxcog
from jaxcog import cli, experiments
from jaxcog.config import to_json
from jaxcog.reproduce import claims_of
from jaxcog.training import loop
from jaxcog.training.progress import Silent

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("jaxcog/**/*.md"), *ROOT.glob(".github/*.md")])
DOCS = ROOT / "jaxcog/docs"
CLAIMS = (DOCS / "claims.md").read_text()
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


def fields(value: object, path: str = "") -> set[str]:
    """Dotted names of all settings of a config as JSON."""
    if not isinstance(value, dict):
        return {path}
    inner = {k: v for k, v in value.items() if k != "type"}
    return {path}.union(*(fields(v, f"{path}.{k}".lstrip(".")) for k, v in inner.items()))


@functools.cache
def settings(system: str) -> set[str]:
    """What can be set in some config of a system; of all systems for ""."""
    names = [
        name for name in experiments.names() if name.startswith(f"{system}/" if system else "")
    ]
    return set().union(*(fields(to_json(experiments.load(n).experiment())) for n in names))


@functools.cache
def options(verb: str) -> set[str]:
    """The flags that a verb's own help names."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert cli.main([verb, "--help"]) == 0
    return set(re.findall(r"--[a-z-]+", said.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_flags_that_are_named_exist(page: Path):
    text = page.read_text().replace("\\\n", " ")
    system = page.relative_to(ROOT).parts[2] if "systems" in page.parts else ""
    for verb, rest in re.findall(r"(?:jaxcog|launch/local) ([a-z][a-z-]+)\b([^`\n#]*)", text):
        if verb not in cli.VERBS:
            continue
        for flag in re.findall(r"(?<!\S)--[a-z][a-z-]*(?![\w.-])", rest):
            assert flag in options(verb), f"jaxcog {verb} {flag}"
    for flag in re.findall(r"--((?:task|data|train|mesh)\.[a-z0-9_.-]*\w)", text):
        name = flag.replace("-", "_")
        assert {name, re.sub(r"\.no_(\w+)$", r".\1", name)} & settings(system), f"--{flag}"


@pytest.mark.parametrize("page", ROOMS, ids=lambda path: path.parent.name)
def test_pages_of_systems_have_one_form(page: Path):
    """What it is, how to use it, published and measured numbers, the entry to cite."""
    parts = re.split(r"^## ", page.read_text(), flags=re.M)
    assert parts[0].startswith("# ")
    names = [part.partition("\n")[0] for part in parts[1:]]
    assert names[0] == "Use it"
    assert names[-1] == "Citation"
    numbers = parts[1 + names.index("Numbers")].lower()
    assert "published" in numbers
    assert "measured here" in numbers
    assert "@" in parts[-1]


def test_pictures_are_named_and_small():
    """They are in every clone: none over 60 kB, all together under 600 kB."""
    pictures = {path.name: path.stat().st_size for path in DOCS.glob("gallery/*")}
    named = set(re.findall(r"\(gallery/([^)]+)\)", (DOCS / "gallery.md").read_text()))
    assert named == set(pictures)
    assert max(pictures.values()) < 60_000
    assert sum(pictures.values()) < 600_000


def test_there_is_one_version():
    assert f"\nversion: {jaxcog.__version__}\n" in (DOCS / "CITATION.cff").read_text()
    assert f"\n## {jaxcog.__version__}" in (DOCS / "changelog.md").read_text()


def test_the_table_of_claims_names_every_system_that_was_run():
    """Its requirements are those of today; `jaxcog reproduce --all --out DIR` writes it anew."""
    rows = re.findall(
        r"^\| (\w+) \| (.+?) \| (.+?) \| [^|]* \| (?:yes|NO) \| \d+ \|$", CLAIMS, re.M
    )
    for system, title, required in rows:
        assert title in {claim.title for claim in claims_of(system)}, f"{system}: {title}"
        assert required


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
