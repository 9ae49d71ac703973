"""Whole 1024 x 2048 Cityscapes images, their height split over four chips, without cropping.

Train:  jaxcog train gald/cityscapes_full --workdir DIR
Plan:   jaxcog plan gald/cityscapes_full --topology v5e:4x4

Blockwise non-local aggregation with a mask that can close (see the room's README): the settings
that are recommended for new trainings.
"""

from jaxcog.config import Experiment, Mesh, Train
from jaxcog.data.datasets.parsing import Cityscapes
from jaxcog.experiments import load
from jaxcog.systems.gald.model import Aggregation
from jaxcog.systems.gald.task import Loss, Parsing

NEEDS = "prepared Cityscapes (jaxcog prepare cityscapes); a number of devices that four divides"


def experiment() -> Experiment:
    return Experiment(
        system="gald",
        task=Parsing(
            trunk="resnet50",
            aggregation=Aggregation("non_local"),
            mask_relu=False,
            block_residual=False,
            pixels="rgb",
            loss=Loss(min_kept=350_000),
        ),
        data=Cityscapes(crop=(1024, 2048), scales=(1.0,)),
        train=Train(
            duration="50000 steps",
            batch_size=8,
            eval_batch_size=4,
            dtype="bfloat16",
            evaluate_every="5000 steps",
            checkpoint_every="5000 steps",
            workers=8,
        ),
        mesh=Mesh(space=4),
    )


def tiny() -> Experiment:
    return load("gald/scenes").module.small()
