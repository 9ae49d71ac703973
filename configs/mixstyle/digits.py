"""MixStyle on real handwritten digits in coloured domains, one domain left out for testing.

Train:  jaxcog train mixstyle/digits --data.target a
Claim:  jaxcog reproduce mixstyle
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.toy.digits import DigitsDomains
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.task import Classification

NEEDS = "nothing: the digits ship with scikit-learn"


def experiment() -> Experiment:
    return Experiment(
        system="mixstyle",
        task=Classification(
            network="cnn_toy",
            mixstyle=MixStyle(p=0.5, alpha=0.1, mix="random", after=("conv1", "conv2")),
            optimizer=Optimizer(
                name="sgd",
                lr=0.05,
                momentum=0.9,
                weight_decay=5e-4,
                schedule=Schedule("cosine", per="step"),
            ),
        ),
        data=DigitsDomains(target="a"),
        train=Train(
            duration="10 epochs",
            batch_size=64,
            evaluate_every="1 epoch",
            checkpoint_every="2 epochs",
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    train = dataclasses.replace(
        full.train, duration="4 steps", batch_size=16, checkpoint_every="2 steps"
    )
    return dataclasses.replace(full, train=train)
