"""OrthoHash on NUS-WIDE with AlexNet, images with several labels: 64-bit codes, mAP@5000.

Train:  jaxcog train orthohash/nuswide --workdir DIR --train.start-from IMPORTED
        (IMPORTED: as for orthohash/imagenet100)
Data:   jaxcog prepare nuswide --raw DIR
"""

import dataclasses

from jaxcog import experiments
from jaxcog.config import Experiment
from jaxcog.data.datasets.hashing import NUSWide

NEEDS = "NUS-WIDE, 21 concepts (jaxcog prepare nuswide); ImageNet weights of AlexNet"


def experiment() -> Experiment:
    coco = experiments.load("orthohash/coco").experiment()
    return dataclasses.replace(coco, data=NUSWide())


def tiny() -> Experiment:
    return experiments.load("orthohash/coco").experiment(tiny=True)
