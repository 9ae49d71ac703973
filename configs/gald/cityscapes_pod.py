"""GALD with ResNet-50 on Cityscapes, 8 crops on every chip of a v5e:4x4.

Train:  jaxcog train gald/cityscapes_pod --workdir DIR [--task.trunk resnet101]
Plan:   jaxcog plan gald/cityscapes_pod --topology v5e:4x4

The crops of gald/cityscapes in an eighth of its steps: the TPU compiler's convolutions need images
by eights, and the same chips get through 2.2 times the crops a second by its estimate
(jaxcog/docs/scale.md). The rate is scaled with the batch and warmed up (Goyal et al. 2017): no
recipe of the paper's, and not tried on Cityscapes; compare with gald/cityscapes first.
"""

import dataclasses

from jaxcog import experiments
from jaxcog.config import Experiment

NEEDS = "prepared Cityscapes (jaxcog prepare cityscapes); ImageNet weights of a deep-stem ResNet"
SLICE = "v5e:4x4"


def experiment() -> Experiment:
    published = experiments.load("gald/cityscapes").experiment()
    times = 8
    optimizer = published.task.optimizer
    warm = dataclasses.replace(optimizer.schedule, warmup="500 steps", warmup_from=1 / times)
    task = dataclasses.replace(
        published.task,
        optimizer=dataclasses.replace(optimizer, lr=times * optimizer.lr, schedule=warm),
    )
    train = dataclasses.replace(
        published.train,
        duration="6250 steps",
        batch_size=times * published.train.batch_size,
        evaluate_every="625 steps",
        checkpoint_every="625 steps",
    )
    return dataclasses.replace(published, task=task, train=train)


def tiny() -> Experiment:
    return experiments.load("gald/scenes").module.small()
