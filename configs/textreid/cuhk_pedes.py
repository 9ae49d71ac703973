"""TextReID with CLIP RN50 and the momentum queue on CUHK-PEDES, the published system.

Begin:  jaxcog import-torch textreid/cuhk_pedes RN50.pt --out CLIP \\
            --allow-missing '^(keys|queue|word_table)' --allow-missing '^params/(textual|head)/'
Train:  jaxcog train textreid/cuhk_pedes --workdir DIR --train.start-from CLIP \\
            --data.word-table clip_vocab_vit.npy
Plan:   jaxcog plan textreid/cuhk_pedes --topology v5e:2x4

The paper's best numbers have RN101.pt and --task.visual.name RN101. The published ones most likely
have --task.momentum.official-reinit True --train.start-fresh 'attnpool/._proj', and their best
checkpoint was chosen on the test split (--data.select-on test). See the room's README.
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.person_search import TextPersons
from jaxcog.data.toy.persons import Persons
from jaxcog.systems.textreid.momentum import Momentum
from jaxcog.systems.textreid.task import PersonSearch, small_search

DEFAULT = True
NEEDS = "prepared CUHK-PEDES (jaxcog prepare cuhk_pedes); CLIP RN50 weights; word vectors"
SLICE = "v5e:2x4"


def experiment() -> Experiment:
    return Experiment(
        system="textreid",
        task=PersonSearch(),
        data=TextPersons("cuhk_pedes"),
        train=Train(duration="80 epochs", batch_size=128, eval_batch_size=128, workers=8),
    )


def tiny() -> Experiment:
    return dataclasses.replace(
        experiment(),
        task=small_search(Momentum(queue=32)),
        data=Persons(persons=12, test_persons=8),
        train=Train(duration="4 steps", batch_size=16, eval_batch_size=16),
    )
