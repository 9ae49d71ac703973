"""GALD with ResNet-50 on COCO-Stuff 10K, 171 classes.

Train:  jaxcog train gald/coco_stuff --workdir DIR

No training code was released for this dataset: the recipe is the field's usual one (README).
Test protocol: protocol.scales 0.5 .. 1.75 with flip.
"""

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.parsing import COCOStuff
from jaxcog.experiments import load
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.gald.model import Aggregation
from jaxcog.systems.gald.task import Loss, Parsing, Protocol

NEEDS = "prepared data (jaxcog prepare coco_stuff); ImageNet weights of a ResNet"


def experiment() -> Experiment:
    return Experiment(
        system="gald",
        task=Parsing(
            trunk="resnet50",
            aggregation=Aggregation("non_local"),
            mask_relu=False,
            block_residual=False,
            pixels="rgb",
            loss=Loss(ohem=False, rows=130),
            protocol=Protocol(absent="skip"),
            optimizer=Optimizer(
                lr=0.001, weight_decay=0.0001, schedule=Schedule("poly", power=0.9)
            ),
        ),
        data=COCOStuff(crop=(520, 520)),
        train=Train(
            duration="60 epochs",
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
