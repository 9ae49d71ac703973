"""QAT on generated videos: 1-shot episodes of classes that training never saw.

Train:  jaxcog train qat/events
Claim:  jaxcog reproduce qat
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.toy.events import EventEpisodes
from jaxcog.optim import Optimizer
from jaxcog.systems.qat.judging import Detector
from jaxcog.systems.qat.task import FewShot

NEEDS = "nothing: the videos are generated"
DEFAULT = True


def experiment() -> Experiment:
    return Experiment(
        system="qat",
        task=FewShot(
            num_heads=2,
            head_dim=32,
            dropout=(0.0, 0.0),
            temperature=10.0,
            inner_steps=8,
            inner_lr=0.1,
            bias="support",
            detector=Detector(smooth=5),
            optimizer=Optimizer(name="adam", lr=2e-3),
        ),
        data=EventEpisodes(shots=1, length=40, channels=32),
        train=Train(
            duration="120 steps",
            batch_size=8,
            eval_batch_size=200,
            evaluate_every="120 steps",
            checkpoint_every="120 steps",
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    return dataclasses.replace(
        full,
        data=EventEpisodes(
            length=16, channels=16, base_classes=4, novel_classes=2, videos_per_class=4,
            queries_per_class=4, episodes=64,
        ),
        train=Train(
            duration="4 steps", batch_size=8, eval_batch_size=8, checkpoint_every="2 steps"
        ),
    )  # fmt: skip
