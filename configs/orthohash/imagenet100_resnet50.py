"""OrthoHash on ImageNet100 with ResNet-50, the recipe of the authors' framework: mAP@1000.

Train:  jaxcog train orthohash/imagenet100_resnet50 --workdir DIR --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch orthohash/imagenet100_resnet50 resnet50.pth --out IMPORTED
                   --allow-missing '^(params|batch_stats)/hash_fc/' --allow-missing codebook)
Data:   jaxcog prepare imagenet100 --raw DIR
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.hashing import ImageNet100
from jaxcog.data.toy.patterns import Patterns
from jaxcog.optim import Optimizer, Rule, Schedule
from jaxcog.systems.orthohash.task import Hashing

NEEDS = "ImageNet100 (jaxcog prepare imagenet100); ImageNet weights of ResNet-50"


def experiment() -> Experiment:
    return Experiment(
        system="orthohash",
        task=Hashing(
            network="resnet",
            depth=50,
            frozen_norm=True,
            num_bits=64,
            codebook="max_hamming",
            margin=0.3,
            scale=8.0,
            map_at=1000,
            optimizer=Optimizer(
                name="adam",
                lr=1e-4,
                weight_decay=5e-4,
                schedule=Schedule("multistep", per="epoch", at=("80 epochs",)),
                rules=(Rule("^backbone/", lr=0.1),),
            ),
        ),
        data=ImageNet100(),
        train=Train(
            duration="100 epochs",
            batch_size=64,
            evaluate_every="10 epochs",
            checkpoint_every="10 epochs",
            start_fresh=("^params/hash_fc/", "^batch_stats/hash_fc/"),
        ),
    )


def tiny() -> Experiment:
    """A narrow AlexNet, which compiles in a fraction of a ResNet's time."""
    full = experiment()
    optimizer = dataclasses.replace(full.task.optimizer, rules=(Rule("^(features_|fc_)", lr=0.1),))
    return dataclasses.replace(
        full,
        task=Hashing(network="alexnet", fc_width=32, num_bits=16, map_at=8, optimizer=optimizer),
        data=Patterns(size=63, classes=4, evaluation="retrieval"),
        train=Train(duration="4 steps", batch_size=16, checkpoint_every="2 steps"),
    )
