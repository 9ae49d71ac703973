"""OrthoHash on ImageNet100 with AlexNet: 64-bit codes, mAP@1000 (NeurIPS 2021, table 1).

Train:  jaxcog train orthohash/imagenet100 --workdir DIR --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch orthohash alexnet.pth --out IMPORTED
                   --allow-missing '^(params|batch_stats)/hash_fc/' --allow-missing codebook)
Plan:   jaxcog plan orthohash/imagenet100 --topology v5e:2x2
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.hashing import ImageNet100
from jaxcog.data.toy.patterns import Patterns
from jaxcog.optim import Optimizer, Rule, Schedule
from jaxcog.systems.orthohash.task import Hashing

NEEDS = "ImageNet100 (jaxcog prepare imagenet100); ImageNet weights of AlexNet"
DEFAULT = True
SLICE = "v5e:2x2"


def experiment() -> Experiment:
    return Experiment(
        system="orthohash",
        task=Hashing(
            network="alexnet",
            num_bits=64,
            codebook="bernoulli",
            margin=0.2,
            scale=None,  # sqrt(64)
            map_at=1000,
            optimizer=Optimizer(
                name="adam",
                lr=1e-4,
                weight_decay=5e-4,
                schedule=Schedule("multistep", per="epoch", at=("80 epochs",)),
                rules=(Rule("^(features_|fc_)", lr=0.1),),
            ),
        ),
        data=ImageNet100(),
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
        data=Patterns(size=63, classes=4, evaluation="retrieval"),
        train=Train(duration="4 steps", batch_size=16, checkpoint_every="2 steps"),
    )
