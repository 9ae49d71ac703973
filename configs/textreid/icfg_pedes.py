"""TextReID with CLIP RN50 and the momentum queue on ICFG-PEDES.

Train:  jaxcog train textreid/icfg_pedes --workdir DIR --train.start-from CLIP \\
            --data.word-table TABLE.npy

There is no validation split: people choose the best checkpoint on test, and so does this.
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.person_search import TextPersons
from jaxcog.data.toy.persons import Persons
from jaxcog.systems.textreid.momentum import Momentum
from jaxcog.systems.textreid.task import PersonSearch, small_search

NEEDS = "prepared ICFG-PEDES (jaxcog prepare icfg_pedes); CLIP RN50 weights; word vectors"


def experiment() -> Experiment:
    return Experiment(
        system="textreid",
        task=PersonSearch(),
        data=TextPersons("icfg_pedes", select_on="test"),
        train=Train(duration="80 epochs", batch_size=128, eval_batch_size=128, workers=8),
    )


def tiny() -> Experiment:
    return dataclasses.replace(
        experiment(),
        task=small_search(Momentum(queue=32)),
        data=Persons(persons=12, test_persons=8),
        train=Train(duration="4 steps", batch_size=16, eval_batch_size=16),
    )
