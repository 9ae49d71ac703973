"""OrthoHash on Google Landmarks v2, judged on Revisited Oxford (or Paris): hard mAP.

Train:  jaxcog train orthohash/revisited --workdir DIR  (--data.database rparis6k)
        The same training as orthohash/gldv2, whose runs `jaxcog eval` can judge here too.
Data:   jaxcog prepare gldv2 --raw DIR, and roxford5k or rparis6k
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.landmarks import Landmarks
from jaxcog.data.toy.descriptors import Descriptors
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.orthohash.task import Hashing

NEEDS = "DELG descriptors of GLDv2 and of Oxford or Paris (jaxcog prepare gldv2, roxford5k)"


def experiment() -> Experiment:
    return Experiment(
        system="orthohash",
        task=Hashing(
            network="feature",
            num_bits=512,
            codebook="bernoulli",
            margin=0.2,
            scale=None,  # sqrt(512)
            protocol="revisited",
            map_at=None,
            recalibrate=True,  # the paper's remedy for the shift between landmarks and buildings
            optimizer=Optimizer(
                name="adam",
                lr=1e-3,
                weight_decay=5e-4,
                schedule=Schedule("multistep", per="epoch", at=("4 epochs", "7 epochs")),
            ),
        ),
        data=Landmarks(database="roxford5k"),
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
        task=dataclasses.replace(full.task, num_bits=16),
        data=Descriptors(truth="revisited"),
        train=Train(duration="4 steps", batch_size=16, checkpoint_every="2 steps"),
    )
