"""Linen's `apply` for the common case, where no collection of variables changes."""

from __future__ import annotations

from typing import Any

from flax import linen as nn


def forward(module: nn.Module, params: Any, *args: Any, **options: Any) -> Any:
    """What `module` returns for `params`; arguments and options are those of its method.

    `Module.apply` returns this or, with `mutable`, a pair: its type says nothing. The functions
    around it say what comes back.
    """
    return module.apply({"params": params}, *args, **options)
