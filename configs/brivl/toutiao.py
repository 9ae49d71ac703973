"""BriVL's text tower on Toutiao news: 15 classes from titles, by a linear head and by name alone.

Train:  jaxcog train brivl/toutiao --workdir DIR --train.start-from IMPORTED
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.chinese_tasks import ToutiaoNews
from jaxcog.data.toy.weak_pairs import DigitNews
from jaxcog.systems.brivl.heads import NewsClassification
from jaxcog.systems.brivl.presets import preset

NEEDS = "toutiao_cat_data.txt; a Chinese vocab.txt; a pre-trained run"


def experiment() -> Experiment:
    return Experiment(
        system="brivl",
        task=NewsClassification(model=preset("base"), head="linear"),
        data=ToutiaoNews(),
        train=Train(
            duration="10 epochs",
            batch_size=256,
            dtype="bfloat16",
            start_fresh=("^params/head/",),
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    return dataclasses.replace(
        full,
        task=NewsClassification(model=preset("tiny"), head="mlp"),
        data=DigitNews(),
        train=Train(duration="4 steps", batch_size=16, checkpoint_every="2 steps"),
    )
