"""The rules of the house: one direction of knowledge, light imports, every file imported."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import jaxcog

ROOT = Path(jaxcog.__file__).parent
MODULES = [module.name for module in pkgutil.walk_packages([str(ROOT)], "jaxcog.")]
# What a package may import of ours, besides itself; a system's room only itself, of the systems.
LOW = {"errors", "rng", "trees", "show", "pictures"}
SHARED = LOW | {"task", "config", "nn", "losses", "metrics"}
MAY_IMPORT = {
    "nn": SHARED | {"interop"},
    "losses": SHARED,
    "metrics": SHARED,
    "interop": LOW,
    "optim": SHARED,
    "data": SHARED | {"interop"},
    "systems": SHARED | {"optim", "interop", "claim"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module in ("jaxcog", "jaxcog.systems"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.startswith("jaxcog.")}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_knowledge_goes_one_way(package: str):
    for path in (ROOT / package).rglob("*.py"):
        for name in imports(path):
            top = name.split(".")[1]
            assert top == package or top in MAY_IMPORT[package], f"{path.name} imports {name}"


def test_no_system_imports_another():
    for path in (ROOT / "systems").rglob("*.py"):
        own = path.relative_to(ROOT / "systems").parts[0]
        others = [n for n in imports(path) if n.startswith("jaxcog.systems.")]
        assert all(name.split(".")[2] == own for name in others), f"{path}: {others}"


def test_every_module_imports():
    for name in MODULES:
        importlib.import_module(name)


def test_neither_tensorflow_nor_torch_is_imported():
    source = f"""
import importlib, sys
for name in {MODULES!r}:
    importlib.import_module(name)
bad = {{"tensorflow", "torch"}} & set(sys.modules)
sys.exit(f"imported: {{bad}}" if bad else 0)
"""
    subprocess.run([sys.executable, "-c", source], check=True, cwd=ROOT.parent)


def test_linen_stays_in_model_files():
    """The loop, data, checkpoints and the command line see pure functions and plain dicts."""
    for package in ("training", "data", "optim", "interop", "planning", "reporting"):
        for path in (ROOT / package).rglob("*.py"):
            assert "flax" not in path.read_text(), path
