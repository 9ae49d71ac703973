"""DLFS and LATS: training on pairs of ages, and judging."""

from __future__ import annotations

from jaxcog.optim import Optimizer, Rule, Schedule

SLOW = Rule(r"mlp/|style/|texture_style/", lr=0.01)
"""The mapping network and every style layer learn a hundred times slower."""


def adam(network: str) -> Optimizer:
    """Adam as the official code has it; "generator" or "discriminator"."""
    return Optimizer(
        name="adam",
        lr=1e-3,
        betas=(0.0, 0.999),
        schedule=Schedule("multistep", at=("50 epochs", "100 epochs"), gamma=0.5, per="epoch"),
        rules=(SLOW,) if network == "generator" else (),
    )
