"""CWT's first stage on grids of digits: an encoder from 56 base classes.

Train:  jaxcog train cwt/digits_base --workdir BASE
Claim:  jaxcog reproduce cwt
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.toy.grids import GridImages
from jaxcog.optim import Optimizer
from jaxcog.systems.cwt.task import BaseTraining, EncoderConfig

NEEDS = "nothing: the digits ship with scikit-learn"


def experiment() -> Experiment:
    return Experiment(
        system="cwt",
        task=BaseTraining(
            encoder=EncoderConfig("cells", width=64),
            optimizer=Optimizer("sgd", lr=0.05, nesterov=True, weight_decay=1e-4),
        ),
        data=GridImages(),
        train=Train(
            duration="3000 steps",
            batch_size=8,
            eval_batch_size=50,
            evaluate_every="1000 steps",
            checkpoint_every="1000 steps",
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    train = Train(duration="4 steps", batch_size=8, eval_batch_size=8, checkpoint_every="2 steps")
    task = BaseTraining(encoder=EncoderConfig("cells", width=64))
    return dataclasses.replace(full, task=task, train=train, data=GridImages(pools=2, test=8))
