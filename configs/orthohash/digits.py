"""OrthoHash on real handwritten digits in four orientations: 16-bit codes for 40 classes.

Train:  jaxcog train orthohash/digits
Claim:  jaxcog reproduce orthohash
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.toy.digits import DigitsRotated
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.orthohash.task import Hashing

NEEDS = "nothing: the digits ship with scikit-learn"


def experiment() -> Experiment:
    return Experiment(
        system="orthohash",
        task=Hashing(
            network="mlp",
            widths=(256, 256),
            num_bits=16,
            codebook="bernoulli",
            scale=8.0,
            margin=0.2,
            map_at=200,
            optimizer=Optimizer(
                name="adam",
                lr=1e-3,
                weight_decay=5e-4,
                schedule=Schedule("multistep", at=("32 epochs",)),
            ),
        ),
        data=DigitsRotated(),
        train=Train(
            duration="40 epochs",
            batch_size=128,
            eval_batch_size=1024,
            evaluate_every="10 epochs",
            checkpoint_every="10 epochs",
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    train = dataclasses.replace(
        full.train, duration="4 steps", batch_size=32, checkpoint_every="2 steps"
    )
    return dataclasses.replace(full, train=train)
