"""StyleMeUp on TU-Berlin, extended: photos of the sketched category, mAP and P@200 (CVPR 2021).

Train:  jaxcog train stylemeup/tuberlin_ext --workdir DIR --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch stylemeup/tuberlin_ext vgg16.pth --out IMPORTED)
Test:   jaxcog eval DIR --best
Plan:   jaxcog plan stylemeup/tuberlin_ext --topology v5e:4x4

There are no pairs: a task is any photo of a class with three of its sketches, the negative a photo
of another class. Queries are 10 sketches of each class; classes are known: not zero-shot.
"""

import dataclasses

from jaxcog import experiments
from jaxcog.config import Experiment
from jaxcog.data.datasets.sketch_categories import Categories

NEEDS = "TU-Berlin with its extended photos (jaxcog prepare tuberlin); ImageNet weights of VGG-16"


def experiment() -> Experiment:
    sketchy = experiments.load("stylemeup/sketchy_ext").experiment()
    return dataclasses.replace(sketchy, data=Categories("tuberlin"))


def tiny() -> Experiment:
    return experiments.load("stylemeup/shoev2").experiment(tiny=True)
