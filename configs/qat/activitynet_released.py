"""QAT on ActivityNet-1.3 with the official code's losses, sampling and inference, defects and all.

Train:  jaxcog train qat/activitynet_released --workdir DIR --train.start-from BASE
        (BASE: as for qat/activitynet; with --data.released-base-list for the official list)

The README says what is wrong with each. The transformer is kept over the episodes even here; the
official script makes a new one for each.
"""

import dataclasses

from jaxcog import experiments
from jaxcog.config import Experiment
from jaxcog.optim import Optimizer

NEEDS = "as qat/activitynet"


def experiment() -> Experiment:
    return _released(experiments.load("qat/activitynet").experiment())


def tiny() -> Experiment:
    return experiments.load("qat/activitynet").experiment(tiny=True)


def _released(full: Experiment) -> Experiment:
    task = dataclasses.replace(
        full.task,
        released_inner_loss=True,
        released_outer_loss=True,
        detector=dataclasses.replace(full.task.detector, released=True),
        optimizer=Optimizer(name="sgd", lr=0.025, momentum=0.0),
    )
    data = dataclasses.replace(full.data, released_sampling=True, repeats=1)
    train = dataclasses.replace(full.train, batch_size=1)
    return dataclasses.replace(full, task=task, data=data, train=train)
