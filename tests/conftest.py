"""Set before jax is imported: CPU with eight virtual devices, full-precision products."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()

import jax
import pytest

jax.config.update("jax_default_matmul_precision", "highest")
# Runs that resume, and configs that share a program, compile it once, in whatever process of the
# session. JAX_COMPILATION_CACHE_DIR keeps what was compiled for the next session too.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="jaxcog-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        default=str(Path(__file__).parent / "golden"),
        help="folder of <system>__<component>.npz files for tests/parity",
    )
    parser.addoption(
        "--update-configs",
        action="store_true",
        help="accept the resolved configs as they are now (tests/configs)",
    )


def pytest_configure(config: pytest.Config) -> None:
    # The default suite compiles hundreds of tiny programs that run a few times: without XLA's
    # optimisations, in a quarter of the time. Slow tests compute, so they keep them.
    if config.option.markexpr == "not slow" and "xla_backend_opt" not in os.environ["XLA_FLAGS"]:
        quick = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
        # XLA refuses flags that it does not know (any more), and so does the TPU's.
        if jax.__version_info__ < (0, 11) and find_spec("libtpu") is None:
            quick.append("--xla_cpu_use_fusion_emitters=false")
        os.environ["XLA_FLAGS"] = " ".join([os.environ["XLA_FLAGS"], *quick])
