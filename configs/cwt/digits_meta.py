"""CWT on grids of digits: episodes of 24 novel classes after 56 base classes.

Train:  jaxcog train cwt/digits_meta --workdir DIR --train.start-from BASE
        (BASE: jaxcog train cwt/digits_base --workdir BASE)
Claim:  jaxcog reproduce cwt
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.toy.grids import GridEpisodes
from jaxcog.optim import Optimizer
from jaxcog.systems.cwt.task import EncoderConfig, InnerLoop, MetaTraining

NEEDS = "the first stage (cwt/digits_base); the digits ship with scikit-learn"


def experiment() -> Experiment:
    return Experiment(
        system="cwt",
        task=MetaTraining(
            encoder=EncoderConfig("cells", width=64),
            inner=InnerLoop(lr=1.0, steps=100),
            updates="mean",
            control=True,
            optimizer=Optimizer("sgd", lr=0.2, nesterov=True, weight_decay=1e-4),
        ),
        data=GridEpisodes(),
        train=Train(
            duration="3000 steps",
            batch_size=16,
            eval_batch_size=50,
            evaluate_every="1000 steps",
            checkpoint_every="1000 steps",
            start_fresh=("^params/transformer/",),
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    task = MetaTraining(
        encoder=full.task.encoder,
        inner=InnerLoop(lr=1.0, steps=4),
        control=True,
        pretrained=False,
    )
    train = Train(
        duration="4 steps",
        batch_size=8,
        eval_batch_size=8,
        checkpoint_every="2 steps",
        start_fresh=("^params/transformer/",),
    )
    data = GridEpisodes(pools=2, episodes=8)
    return dataclasses.replace(full, task=task, train=train, data=data)
