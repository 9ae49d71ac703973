"""CWT on PASCAL-5i with ResNet-50: the classifier weight transformer learns from base episodes.

Train:  jaxcog train cwt/pascal5i_meta --workdir DIR --data.fold 0 --train.start-from BASE
        (BASE: cwt/pascal5i_base of the same fold)
5-shot: --data.shot 5
Test:   jaxcog eval DIR --best --data.runs 5
Import: jaxcog import-torch cwt/pascal5i_meta best.pth --train.start-from BASE --out DIR
Plan:   jaxcog plan cwt/pascal5i_meta --topology v5e:2x4

8 episodes a step, and 8 updates of one episode each after another: the published batch of one. The
encoder and the inner loops, which are nearly all the work, do not depend on the transformer and run
for the 8 episodes at once, one a chip.
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.segmentation_episodes import Episodes
from jaxcog.data.toy.grids import GridEpisodes
from jaxcog.optim import Optimizer
from jaxcog.systems.cwt.task import EncoderConfig, InnerLoop, MetaTraining

NEEDS = "prepared PASCAL-5i (jaxcog prepare pascal5i); the first stage (cwt/pascal5i_base)"
DEFAULT = True
SLICE = "v5e:2x4"


def experiment() -> Experiment:
    return Experiment(
        system="cwt",
        task=MetaTraining(
            encoder=EncoderConfig("resnet50", bins=(1, 2, 3, 6), width=512),
            heads=4,
            inner=InnerLoop(lr=0.1, steps=200),
            updates="sequential",
            optimizer=Optimizer("sgd", lr=1e-3, momentum=0.9, nesterov=True, weight_decay=1e-4),
        ),
        data=Episodes("pascal5i", fold=0, shot=1, size=473),
        train=Train(
            duration="20 epochs",
            batch_size=8,
            eval_batch_size=8,
            seed=2021,
            evaluate_every="1 epoch",
            checkpoint_every="1 epoch",
            start_fresh=("^params/transformer/",),
            workers=8,
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    task = dataclasses.replace(
        full.task,
        encoder=EncoderConfig("cells", width=64),
        inner=InnerLoop(lr=1.0, steps=4),
        control=True,
        pretrained=False,
    )
    train = Train(
        duration="4 steps",
        batch_size=8,
        eval_batch_size=8,
        checkpoint_every="2 steps",
        start_fresh=("^params/transformer/",),
    )
    data = GridEpisodes(pools=2, episodes=8)
    return dataclasses.replace(full, task=task, train=train, data=data)
