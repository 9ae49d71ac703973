"""GALD on generated scenes: does local distribution tell small objects from large ones?

Train:  jaxcog train gald/scenes
Claim:  jaxcog reproduce gald
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.toy.scenes import Scenes
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.gald.model import Aggregation
from jaxcog.systems.gald.task import Loss, Parsing, Protocol

NEEDS = "nothing: the scenes are generated"


def experiment() -> Experiment:
    return Experiment(
        system="gald",
        task=Parsing(
            trunk="pixels",
            head="light",
            aggregation=Aggregation("mean"),
            downsample=False,
            block_residual=False,
            mask_relu=False,
            auxiliary=False,
            remat=False,
            pixels="raw",
            loss=Loss(ohem=False, per_images=None),
            optimizer=Optimizer(
                lr=0.1, momentum=0.9, weight_decay=5e-4, schedule=Schedule("poly", power=0.9)
            ),
        ),
        data=Scenes("objects"),
        train=Train(
            duration="800 steps",
            batch_size=6,
            eval_batch_size=32,
            evaluate_every="400 steps",
            checkpoint_every="400 steps",
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    train = dataclasses.replace(
        full.train, duration="4 steps", batch_size=4, eval_batch_size=4, checkpoint_every="2 steps"
    )
    return dataclasses.replace(full, train=train, data=Scenes("objects", train=16, test=8))


def small() -> Experiment:
    """GALD's head on a small trunk, for seconds: the tiny variant of all configs of datasets."""
    task = Parsing(
        trunk="strided",
        width=32,
        aggregation=Aggregation("non_local", block=200),
        mask_relu=False,
        block_residual=False,
        remat=False,
        pixels="raw",
        loss=Loss(min_kept=1000, rows=32),
        protocol=Protocol(tile=48, flip=True, absent="skip"),
    )
    train = Train(
        duration="4 steps",
        batch_size=4,
        eval_batch_size=4,
        evaluate_every="4 steps",
        checkpoint_every="2 steps",
    )
    data = Scenes(size=64, train=16, test=4)
    return Experiment("gald", task, data, train)
