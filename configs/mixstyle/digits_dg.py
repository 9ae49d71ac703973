"""MixStyle on Digits-DG with a small convolutional network (ICLR 2021).

Train:  jaxcog train mixstyle/digits_dg --workdir DIR --data.target mnist_m
Data:   jaxcog prepare digits_dg --raw DIR
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.domains import DigitsDG
from jaxcog.data.toy.patterns import Patterns
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.task import Classification

NEEDS = "Digits-DG (jaxcog prepare digits_dg)"


def experiment() -> Experiment:
    return Experiment(
        system="mixstyle",
        task=Classification(
            network="cnn_digitsdg",
            mixstyle=MixStyle(p=0.5, alpha=0.1, mix="random", after=("conv1", "conv2")),
            optimizer=Optimizer(
                name="sgd",
                lr=0.05,
                momentum=0.9,
                weight_decay=5e-4,
                schedule=Schedule("step", every="20 epochs", gamma=0.1),
            ),
        ),
        data=DigitsDG(target="mnist_m"),
        train=Train(
            duration="50 epochs",
            batch_size=128,
            evaluate_every="10 epochs",
            checkpoint_every="10 epochs",
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    style = dataclasses.replace(full.task.mixstyle, after=("conv1", "conv2"))
    return dataclasses.replace(
        full,
        task=dataclasses.replace(full.task, network="cnn_digitsdg", mixstyle=style),
        data=Patterns(size=32),
        train=Train(duration="4 steps", batch_size=16, checkpoint_every="2 steps"),
    )
