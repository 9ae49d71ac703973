"""Small experiments that several test files share."""

from __future__ import annotations

from jaxcog.config import Experiment, Train
from jaxcog.data.toy.events import EventEpisodes
from jaxcog.systems.qat.model import GTADConfig
from jaxcog.systems.qat.task import FewShot

NETWORK = GTADConfig(channels=16, hidden=(16, 8), bins=(4, 2), groups=4, width=2)


def raw_experiment(**data: object) -> Experiment:
    """Episodes of raw features that a small frozen network embeds."""
    videos = {
        "length": 16, "channels": 8, "embedded": 16, "base_classes": 3, "novel_classes": 2,
        "videos_per_class": 4, "queries_per_class": 3, "episodes": 32,
    }  # fmt: skip
    return Experiment(
        system="qat",
        task=FewShot(network=NETWORK, inner_steps=4),
        data=EventEpisodes(**{**videos, **data}),
        train=Train(
            duration="4 steps", batch_size=4, eval_batch_size=4, checkpoint_every="2 steps"
        ),
    )
