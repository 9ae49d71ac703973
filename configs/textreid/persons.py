"""TextReID on generated persons: does a queue of momentum keys help a small batch?

Train:  jaxcog train textreid/persons --workdir DIR
Claim:  jaxcog reproduce textreid
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.toy.persons import Persons
from jaxcog.systems.textreid.momentum import Momentum
from jaxcog.systems.textreid.task import small_search

NEEDS = "nothing: persons and captions are generated"


def experiment() -> Experiment:
    return Experiment(
        system="textreid",
        task=small_search(Momentum(queue=128, decay=0.99)),
        data=Persons(),
        train=Train(
            duration="500 steps",
            batch_size=16,
            eval_batch_size=200,
            evaluate_every="100 steps",
            checkpoint_every="250 steps",
        ),
    )


def tiny() -> Experiment:
    return dataclasses.replace(
        experiment(),
        task=small_search(Momentum(queue=32)),
        data=Persons(persons=12, test_persons=8),
        train=Train(duration="4 steps", batch_size=16, eval_batch_size=16),
    )
