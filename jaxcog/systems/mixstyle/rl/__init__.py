"""MixStyle for reinforcement learning: the IMPALA network and PPO on CoinRun."""

from jaxcog.systems.mixstyle.rl.policy import Policy, PolicyOutput
from jaxcog.systems.mixstyle.rl.ppo import gae, policy_loss, tensorflow_adam, value_loss

__all__ = [
    "Policy",
    "PolicyOutput",
    "gae",
    "policy_loss",
    "tensorflow_adam",
    "value_loss",
]
