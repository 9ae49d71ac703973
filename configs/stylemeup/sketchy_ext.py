"""StyleMeUp on Sketchy, extended: photos of the sketched category, mAP and P@200 (CVPR 2021).

Train:  jaxcog train stylemeup/sketchy_ext --workdir DIR --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch stylemeup/sketchy_ext vgg16.pth --out IMPORTED)
Test:   jaxcog eval DIR --best
Plan:   jaxcog plan stylemeup/sketchy_ext --topology v5e:4x4

A task is one photo with three of its sketches, the negative a photo of another class. Queries are
50 sketches of each class that training never sees; classes are known: not zero-shot.
"""

import dataclasses

from jaxcog import experiments
from jaxcog.config import Experiment
from jaxcog.data.datasets.sketch_categories import Categories

NEEDS = "Sketchy with its extended photos (jaxcog prepare sketchy); ImageNet weights of VGG-16"
SLICE = "v5e:4x4"


def experiment() -> Experiment:
    shoes = experiments.load("stylemeup/shoev2").experiment()
    train = dataclasses.replace(
        shoes.train,
        duration="20 epochs",
        batch_size=32,
        eval_batch_size=256,
        evaluate_every="1 epoch",
        checkpoint_every="1 epoch",
    )
    return dataclasses.replace(shoes, data=Categories("sketchy"), train=train)


def tiny() -> Experiment:
    return experiments.load("stylemeup/shoev2").experiment(tiny=True)
