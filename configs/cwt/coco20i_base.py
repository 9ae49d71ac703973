"""CWT's first stage on COCO-20i: PSPNet with ResNet-50 on the 60 base classes of a fold.

Train:  jaxcog train cwt/coco20i_base --workdir BASE --data.fold 0 --train.start-from IMPORTED
        (IMPORTED as for cwt/pascal5i_base)
Import: jaxcog import-torch cwt/coco20i_base best.pth --data.fold 0 --out BASE
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.segmentation_episodes import BaseClasses
from jaxcog.data.toy.grids import GridImages
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.cwt.task import BaseTraining, EncoderConfig

NEEDS = "prepared COCO-20i (jaxcog prepare coco20i); ImageNet weights of a deep-stem ResNet"


def experiment() -> Experiment:
    return Experiment(
        system="cwt",
        task=BaseTraining(
            encoder=EncoderConfig("resnet50", bins=(1, 2, 3, 6), width=512, dropout=0.1),
            smoothing=0.1,
            optimizer=Optimizer(
                "sgd",
                lr=2.5e-3,
                momentum=0.9,
                nesterov=True,
                weight_decay=1e-4,
                schedule=Schedule("cosine", final=1e-6 / 2.5e-3),
            ),
        ),
        data=BaseClasses("coco20i", fold=0, size=473),
        train=Train(
            duration="20 epochs",
            batch_size=12,
            eval_batch_size=12,
            seed=2020,
            evaluate_every="5 epochs",
            checkpoint_every="1 epoch",
            start_fresh=("/(ppm|bottleneck)/", "/classifier/"),
            workers=8,
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    train = Train(duration="4 steps", batch_size=8, eval_batch_size=8, checkpoint_every="2 steps")
    task = BaseTraining(encoder=EncoderConfig("cells", width=64))
    return dataclasses.replace(full, task=task, train=train, data=GridImages(pools=2, test=8))
