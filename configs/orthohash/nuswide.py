"""OrthoHash on NUS-WIDE with AlexNet, images with several labels: 64-bit codes, mAP@5000.

Train:  jaxcog train orthohash/nuswide --workdir DIR --train.start-from IMPORTED
        (IMPORTED: as for orthohash/imagenet100)
Data:   jaxcog prepare nuswide --raw DIR
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.hashing import NUSWide
from jaxcog.data.toy.patterns import Patterns
from jaxcog.optim import Optimizer, Rule, Schedule
from jaxcog.systems.orthohash.task import Hashing

NEEDS = "NUS-WIDE, 21 concepts (jaxcog prepare nuswide); ImageNet weights of AlexNet"


def experiment() -> Experiment:
    return Experiment(
        system="orthohash",
        task=Hashing(
            network="alexnet",
            num_bits=64,
            codebook="bernoulli",
            margin=0.2,
            scale=None,  # sqrt(64)
            multi_label=True,
            map_at=5000,
            optimizer=Optimizer(
                name="adam",
                lr=1e-4,
                weight_decay=5e-4,
                schedule=Schedule("multistep", per="epoch", at=("80 epochs",)),
                rules=(Rule("^(features_|fc_)", lr=0.1),),
            ),
        ),
        data=NUSWide(),
        train=Train(
            duration="100 epochs",
            batch_size=256,
            evaluate_every="10 epochs",
            checkpoint_every="10 epochs",
            start_fresh=("^params/hash_fc/", "^batch_stats/hash_fc/"),
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    return dataclasses.replace(
        full,
        task=dataclasses.replace(full.task, fc_width=32, num_bits=16, map_at=8),
        data=Patterns(size=63, classes=4, evaluation="retrieval", multi_label=True),
        train=Train(duration="4 steps", batch_size=16, checkpoint_every="2 steps"),
    )
