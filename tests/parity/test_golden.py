"""Our numbers against the official code's: one test for every golden file.

pytest tests/parity --golden DIR

Files in DIR/slow are marked slow: deep networks whose compilation takes longer than the whole test
of a light one.
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
    slow = sorted((folder / "slow").glob("*.npz"))
    metafunc.parametrize(
        "golden_path",
        [
            *(pytest.param(path, id=path.stem) for path in paths),
            *(pytest.param(path, id=path.stem, marks=pytest.mark.slow) for path in slow),
        ],
    )


def test_golden(golden_path: Path) -> None:
    golden = Golden(golden_path)
    adapter_for(golden).run(golden)
    golden.finish()


def test_every_adapter_module_can_be_imported() -> None:
    assert not broken_modules(), "\n".join(broken_modules().values())
