"""CLIP RN50 on CUHK-PEDES without the momentum queue: the simple head.

Train:  jaxcog train textreid/cuhk_pedes_baseline --workdir DIR --train.start-from CLIP \\
            --data.word-table clip_vocab_vit.npy [--task.visual.name RN101]
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.person_search import TextPersons
from jaxcog.data.toy.persons import Persons
from jaxcog.systems.textreid.task import PersonSearch, small_search

NEEDS = "prepared CUHK-PEDES (jaxcog prepare cuhk_pedes); CLIP RN50 weights; word vectors"


def experiment() -> Experiment:
    return Experiment(
        system="textreid",
        task=PersonSearch(momentum=None),
        data=TextPersons("cuhk_pedes"),
        train=Train(duration="80 epochs", batch_size=128, eval_batch_size=128, workers=8),
    )


def tiny() -> Experiment:
    return dataclasses.replace(
        experiment(),
        task=small_search(None, words="learned"),
        data=Persons(persons=12, test_persons=8),
        train=Train(duration="4 steps", batch_size=16, eval_batch_size=16),
    )
