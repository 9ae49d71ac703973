"""OrthoHash on CIFAR-10 with AlexNet, protocol 2 (50,000 training images): 64 bits, mAP@all.

Train:  jaxcog train orthohash/cifar10_protocol2 --workdir DIR --train.start-from IMPORTED
        (IMPORTED: as for orthohash/imagenet100)
Data:   jaxcog prepare cifar10 --raw DIR
"""

import dataclasses

from jaxcog import experiments
from jaxcog.config import Experiment
from jaxcog.data.datasets.hashing import CIFAR10

NEEDS = "CIFAR-10 (jaxcog prepare cifar10); ImageNet weights of AlexNet"


def experiment() -> Experiment:
    first = experiments.load("orthohash/cifar10").experiment()
    return dataclasses.replace(first, data=CIFAR10(protocol=2))


def tiny() -> Experiment:
    return experiments.load("orthohash/cifar10").experiment(tiny=True)
