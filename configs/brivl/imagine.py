"""BriVL on the digits once more, in noise: towers whose pictures of a name a person can read.

Train:  jaxcog train brivl/imagine --workdir DIR
        (its report shows the names of the digits as pictures; `jaxcog predict DIR words.txt`)
"""

import dataclasses

from jaxcog import experiments
from jaxcog.config import Experiment
from jaxcog.systems.brivl.imagination import Inversion

NEEDS = "nothing: the digits ship with scikit-learn"


def experiment() -> Experiment:
    digits = experiments.load("brivl/digits").experiment()
    task = dataclasses.replace(
        digits.task,
        contrast="batch+queue",
        queue_size=320,
        noise=0.6,
        inversion=Inversion(steps=200, lr=0.1, jitter=0, noise=0.3, draws=4, likeness=0.02),
    )
    train = dataclasses.replace(
        digits.train,
        duration="2000 steps",
        batch_size=64,
        evaluate_every="1000 steps",
        checkpoint_every="1000 steps",
    )
    return dataclasses.replace(digits, task=task, train=train)


def tiny() -> Experiment:
    return experiments.load("brivl/digits").experiment(tiny=True)
