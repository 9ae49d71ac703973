"""GALD with ResNet-50 on COCO-Stuff 10K, 171 classes.

Train:  jaxcog train gald/coco_stuff --workdir DIR

No training code was released for this dataset: the recipe is the field's usual one (README).
Test protocol: protocol.scales 0.5 .. 1.75 with flip.
"""

from jaxcog.config import Experiment, override
from jaxcog.data.datasets.parsing import COCOStuff
from jaxcog.experiments import load

NEEDS = "prepared data (jaxcog prepare coco_stuff); ImageNet weights of a ResNet"


def experiment() -> Experiment:
    changes = {
        "task.loss.rows": 130,
        "task.optimizer.lr": 0.001,
        "data": COCOStuff(crop=(520, 520)),
        "train.duration": "60 epochs",
    }
    return override(load("gald/ade20k").experiment(), changes)


def tiny() -> Experiment:
    return load("gald/scenes").module.small()
