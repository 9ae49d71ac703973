"""FixMatch with MixStyle on digits in coloured domains, four labels a class and domain (IJCV 2023).

Train:  jaxcog train mixstyle/digits_semi --data.target b
Claim:  jaxcog reproduce mixstyle
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.toy.digits import DigitsSemi
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.semi import SemiSupervised

NEEDS = "nothing: the digits ship with scikit-learn"


def experiment() -> Experiment:
    return Experiment(
        system="mixstyle",
        task=SemiSupervised(
            network="cnn_toy",
            mixstyle=MixStyle(p=0.5, alpha=0.1, mix="crossdomain", after=("conv1", "conv2")),
            threshold=0.95,
            optimizer=Optimizer(
                name="sgd",
                lr=0.03,
                momentum=0.9,
                weight_decay=5e-4,
                schedule=Schedule("cosine", per="step"),
            ),
        ),
        data=DigitsSemi(target="b", per_class=4),
        train=Train(
            duration="200 steps",
            batch_size=48,
            evaluate_every="50 steps",
            checkpoint_every="100 steps",
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    train = dataclasses.replace(
        full.train, duration="4 steps", batch_size=12, checkpoint_every="2 steps"
    )
    return dataclasses.replace(full, train=train)
