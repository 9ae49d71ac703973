"""OrthoHash on Google Landmarks v2: a hash layer on 1.2 million descriptors, mAP@100.

Train:  jaxcog train orthohash/gldv2 --workdir DIR  (--task.num-bits 128 or 2048)
Oxford: jaxcog eval DIR --data.database roxford5k --task.protocol revisited --task.map-at None
            --task.recalibrate
Paris:  the same with rparis6k; without --task.recalibrate the batch-norm means stay as learned
Data:   jaxcog prepare gldv2 --raw DIR, and roxford5k, rparis6k
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.landmarks import Landmarks
from jaxcog.data.toy.descriptors import Descriptors
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.orthohash.task import Hashing

NEEDS = "DELG descriptors of GLDv2 (jaxcog prepare gldv2); nothing to start from"


def experiment() -> Experiment:
    return Experiment(
        system="orthohash",
        task=Hashing(
            network="feature",
            num_bits=512,
            codebook="bernoulli",
            margin=0.2,
            scale=None,  # sqrt(512)
            protocol="landmarks",
            map_at=100,
            optimizer=Optimizer(
                name="adam",
                lr=1e-3,
                weight_decay=5e-4,
                schedule=Schedule("multistep", per="epoch", at=("4 epochs", "7 epochs")),
            ),
        ),
        data=Landmarks(database="gldv2"),
        train=Train(
            duration="10 epochs",
            batch_size=256,
            evaluate_every="5 epochs",
            checkpoint_every="1 epoch",
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    return dataclasses.replace(
        full,
        task=dataclasses.replace(full.task, num_bits=16, map_at=8),
        data=Descriptors(),
        train=Train(duration="4 steps", batch_size=16, checkpoint_every="2 steps"),
    )
