"""OrthoHash on CIFAR-10 with AlexNet, protocol 1 (5,000 training images): 64 bits, mAP@all.

Train:  jaxcog train orthohash/cifar10 --workdir DIR --train.start-from IMPORTED
        (IMPORTED: as for orthohash/imagenet100)
Data:   jaxcog prepare cifar10 --raw DIR
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.hashing import CIFAR10
from jaxcog.data.toy.patterns import Patterns
from jaxcog.optim import Optimizer, Rule, Schedule
from jaxcog.systems.orthohash.task import Hashing

NEEDS = "CIFAR-10 (jaxcog prepare cifar10); ImageNet weights of AlexNet"


def experiment() -> Experiment:
    return Experiment(
        system="orthohash",
        task=Hashing(
            network="alexnet",
            num_bits=64,
            codebook="bernoulli",
            margin=0.3,
            scale=None,  # sqrt(64)
            map_at=None,
            optimizer=Optimizer(
                name="adam",
                lr=1e-4,
                weight_decay=5e-4,
                schedule=Schedule("multistep", per="epoch", at=("80 epochs",)),
                rules=(Rule("^(features_|fc_)", lr=0.1),),
            ),
        ),
        data=CIFAR10(protocol=1),
        train=Train(
            duration="100 epochs",
            batch_size=256,
            seed=59495,  # of the official recipe
            evaluate_every="10 epochs",
            checkpoint_every="10 epochs",
            start_fresh=("^params/hash_fc/", "^batch_stats/hash_fc/"),
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    return dataclasses.replace(
        full,
        task=dataclasses.replace(full.task, fc_width=32, num_bits=16, margin=0.2, map_at=8),
        data=Patterns(size=63, classes=4, evaluation="retrieval"),
        train=Train(duration="4 steps", batch_size=16, checkpoint_every="2 steps"),
    )
