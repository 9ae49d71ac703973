"""GALD with ResNet-50 on CamVid, 11 classes.

Train:  jaxcog train gald/camvid --workdir DIR

No training code was released for this dataset: the recipe is the field's usual one (README).
Test protocol: one scale.
"""

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.parsing import CamVid
from jaxcog.experiments import load
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.gald.model import Aggregation
from jaxcog.systems.gald.task import Loss, Parsing, Protocol

NEEDS = "prepared data (jaxcog prepare camvid); ImageNet weights of a ResNet"


def experiment() -> Experiment:
    return Experiment(
        system="gald",
        task=Parsing(
            trunk="resnet50",
            aggregation=Aggregation("non_local"),
            mask_relu=False,
            block_residual=False,
            pixels="rgb",
            loss=Loss(ohem=False),
            protocol=Protocol(absent="skip"),
            optimizer=Optimizer(lr=0.01, weight_decay=0.0005, schedule=Schedule("poly", power=0.9)),
        ),
        data=CamVid(crop=(360, 360)),
        train=Train(
            duration="200 epochs",
            batch_size=8,
            eval_batch_size=8,
            dtype="bfloat16",
            evaluate_every="10 epochs",
            checkpoint_every="5 epochs",
            workers=8,
        ),
    )


def tiny() -> Experiment:
    return load("gald/scenes").module.small()
