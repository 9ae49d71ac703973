"""CWT's first stage on PASCAL-5i: PSPNet with ResNet-50 on the 15 base classes of a fold.

Train:  jaxcog train cwt/pascal5i_base --workdir BASE --data.fold 0 --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch cwt/pascal5i_base resnet50_v2.pth --data.fold 0
                   --out IMPORTED --allow-missing '/(ppm|bottleneck)/|/classifier/')
Import: jaxcog import-torch cwt/pascal5i_base best.pth --data.fold 0 --out BASE
Other:  --task.encoder.name resnet101 or vgg16; RePRI's own images were 417 pixels (--data.size 417)
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.segmentation_episodes import BaseClasses
from jaxcog.data.toy.grids import GridImages
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.cwt.task import BaseTraining, EncoderConfig

NEEDS = "prepared PASCAL-5i (jaxcog prepare pascal5i); ImageNet weights of a deep-stem ResNet"


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
        data=BaseClasses("pascal5i", fold=0, size=473),
        train=Train(
            duration="100 epochs",
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
