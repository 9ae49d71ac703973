"""Optimizers as configs: schedules, per-parameter rules, the step of one loss."""

from jaxcog.optim.optimizers import Optimizer, Rule, make_optimizer
from jaxcog.optim.schedules import AfterWarmup, Schedule, learning_rate
from jaxcog.optim.step import gradient_step, initial_state

__all__ = [
    "AfterWarmup",
    "Optimizer",
    "Rule",
    "Schedule",
    "gradient_step",
    "initial_state",
    "learning_rate",
    "make_optimizer",
]
