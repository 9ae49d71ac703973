"""GALD with ResNet-50 on CamVid, 11 classes.

Train:  jaxcog train gald/camvid --workdir DIR

No training code was released for this dataset: the recipe is the field's usual one (README).
Test protocol: one scale.
"""

from jaxcog.config import Experiment, override
from jaxcog.data.datasets.parsing import CamVid
from jaxcog.experiments import load
from jaxcog.systems.gald.task import Loss

NEEDS = "prepared data (jaxcog prepare camvid); ImageNet weights of a ResNet"


def experiment() -> Experiment:
    changes = {
        "task.loss": Loss(ohem=False),
        "task.optimizer.lr": 0.01,
        "task.optimizer.weight_decay": 0.0005,
        "data": CamVid(crop=(360, 360)),
        "train.duration": "200 epochs",
        "train.batch_size": 8,
    }
    return override(load("gald/ade20k").experiment(), changes)


def tiny() -> Experiment:
    return load("gald/scenes").module.small()
