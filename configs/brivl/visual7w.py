"""BriVL on Visual7W (telling): which of four answers to a question about an image is right.

Train:  jaxcog train brivl/visual7w --workdir DIR --train.start-from IMPORTED
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.chinese_tasks import Visual7W
from jaxcog.data.toy.weak_pairs import DigitQuestions
from jaxcog.systems.brivl.heads import VisualQuestions
from jaxcog.systems.brivl.presets import preset

NEEDS = "Visual7W with its texts in Chinese; a Chinese vocab.txt; a pre-trained run"


def experiment() -> Experiment:
    return Experiment(
        system="brivl",
        task=VisualQuestions(model=preset("base"), head="mlp"),
        data=Visual7W(size=456),
        train=Train(
            duration="10 epochs",
            batch_size=256,
            dtype="bfloat16",
            start_fresh=("^params/head/",),
            workers=8,
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    return dataclasses.replace(
        full,
        task=VisualQuestions(model=preset("tiny"), head="mlp"),
        data=DigitQuestions(),
        train=Train(duration="4 steps", batch_size=8, checkpoint_every="2 steps"),
    )
