"""CWT's first stage on COCO-20i: PSPNet with ResNet-50 on the 60 base classes of a fold.

Train:  jaxcog train cwt/coco20i_base --workdir BASE --data.fold 0 --train.start-from IMPORTED
        (IMPORTED as for cwt/pascal5i_base)
Import: jaxcog import-torch cwt/coco20i_base best.pth --data.fold 0 --out BASE
"""

import dataclasses

from jaxcog import experiments
from jaxcog.config import Experiment
from jaxcog.data.datasets.segmentation_episodes import BaseClasses

NEEDS = "prepared COCO-20i (jaxcog prepare coco20i); ImageNet weights of a deep-stem ResNet"


def experiment() -> Experiment:
    pascal = experiments.load("cwt/pascal5i_base").experiment()
    return dataclasses.replace(
        pascal,
        data=BaseClasses("coco20i", fold=0, size=473),
        train=dataclasses.replace(pascal.train, duration="20 epochs"),
    )


def tiny() -> Experiment:
    return experiments.load("cwt/pascal5i_base").experiment(tiny=True)
