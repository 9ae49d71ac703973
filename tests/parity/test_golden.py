"""Our numbers against the official code's: one test for every golden file.

pytest tests/parity --golden DIR
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.adapters import adapter_for, broken_modules
from tests.parity.golden import Golden


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_path" not in metafunc.fixturenames:
        return
    folder = Path(metafunc.config.getoption("--golden"))
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise pytest.UsageError(f"--golden {folder}: no <system>__<component>.npz files there")
    metafunc.parametrize("golden_path", paths, ids=[path.stem for path in paths])


def test_golden(golden_path: Path) -> None:
    golden = Golden(golden_path)
    adapter_for(golden).run(golden)
    golden.finish()


def test_every_adapter_module_can_be_imported() -> None:
    assert not broken_modules(), "\n".join(broken_modules().values())
