"""ImageNet ResNet-50 and learned word vectors on CUHK-PEDES: the baseline without CLIP.

Train:  jaxcog train textreid/cuhk_pedes_imagenet --workdir DIR --train.start-from IMAGENET
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.person_search import TextPersons
from jaxcog.data.toy.persons import Persons
from jaxcog.systems.textreid.model import Textual, Visual
from jaxcog.systems.textreid.task import PersonSearch, small_search

NEEDS = "prepared CUHK-PEDES (jaxcog prepare cuhk_pedes); ImageNet weights of a ResNet-50"


def experiment() -> Experiment:
    return Experiment(
        system="textreid",
        task=PersonSearch(
            visual=Visual("imagenet50"),
            textual=Textual(words="learned", rows=12000),
            momentum=None,
        ),
        data=TextPersons("cuhk_pedes", pixels="imagenet"),
        train=Train(duration="80 epochs", batch_size=128, eval_batch_size=128, workers=8),
    )


def tiny() -> Experiment:
    return dataclasses.replace(
        experiment(),
        task=small_search(None, words="learned"),
        data=Persons(persons=12, test_persons=8),
        train=Train(duration="4 steps", batch_size=16, eval_batch_size=16),
    )
