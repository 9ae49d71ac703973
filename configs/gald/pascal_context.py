"""GALD with ResNet-50 on Pascal Context, 59 classes and background.

Train:  jaxcog train gald/pascal_context --workdir DIR

No training code was released for this dataset: the recipe is the field's usual one (README).
Test protocol: protocol.scales 0.5 .. 1.75 with flip; data.background False for 59 classes.
"""

from jaxcog.config import Experiment, override
from jaxcog.data.datasets.parsing import PascalContext
from jaxcog.experiments import load

NEEDS = "prepared data (jaxcog prepare pascal_context); ImageNet weights of a ResNet"


def experiment() -> Experiment:
    changes = {
        "task.loss.rows": 160,
        "task.optimizer.lr": 0.001,
        "data": PascalContext(crop=(480, 480)),
        "train.duration": "80 epochs",
    }
    return override(load("gald/ade20k").experiment(), changes)


def tiny() -> Experiment:
    return load("gald/scenes").module.small()
