"""GALD with ResNet-50 on ADE20K, 150 classes.

Train:  jaxcog train gald/ade20k --workdir DIR

No training code was released for this dataset: the recipe is the field's usual one (README).
Test protocol: protocol.scales 0.5 .. 1.75 with flip.
"""

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.parsing import ADE20K
from jaxcog.experiments import load
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.gald.model import Aggregation
from jaxcog.systems.gald.task import Loss, Parsing, Protocol

NEEDS = "prepared data (jaxcog prepare ade20k); ImageNet weights of a ResNet"


def experiment() -> Experiment:
    return Experiment(
        system="gald",
        task=Parsing(
            trunk="resnet50",
            aggregation=Aggregation("non_local"),
            mask_relu=False,
            block_residual=False,
            pixels="rgb",
            loss=Loss(ohem=False, rows=128),
            protocol=Protocol(absent="skip"),
            optimizer=Optimizer(lr=0.02, weight_decay=0.0001, schedule=Schedule("poly", power=0.9)),
        ),
        data=ADE20K(crop=(512, 512)),
        train=Train(
            duration="120 epochs",
            batch_size=16,
            eval_batch_size=8,
            dtype="bfloat16",
            evaluate_every="10 epochs",
            checkpoint_every="5 epochs",
            workers=8,
        ),
    )


def tiny() -> Experiment:
    return load("gald/scenes").module.small()
