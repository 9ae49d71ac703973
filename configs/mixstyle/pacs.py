"""MixStyle on PACS with random partners, one domain left out (ICLR 2021).

Train:  jaxcog train mixstyle/pacs --workdir DIR --data.target sketch
            --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch mixstyle/pacs resnet18.pth --out IMPORTED
                   --allow-missing '^params/classifier/')
Data:   jaxcog prepare pacs --raw DIR
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.domains import PACS
from jaxcog.data.toy.patterns import Patterns
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.task import Classification

NEEDS = "PACS (jaxcog prepare pacs); ImageNet weights of ResNet-18"
DEFAULT = True
SLICE = "v5e:2x2"


def experiment() -> Experiment:
    return Experiment(
        system="mixstyle",
        task=Classification(
            network="resnet18",
            mixstyle=MixStyle(p=0.5, alpha=0.1, mix="random", after=("layer1", "layer2", "layer3")),
            optimizer=Optimizer(
                name="sgd",
                lr=1e-3,
                momentum=0.9,
                weight_decay=5e-4,
                schedule=Schedule("cosine", per="epoch"),
            ),
        ),
        data=PACS(target="sketch"),
        train=Train(
            duration="50 epochs",
            batch_size=64,
            evaluate_every="10 epochs",
            checkpoint_every="10 epochs",
            start_fresh=("^params/classifier/",),
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    style = dataclasses.replace(full.task.mixstyle, after=("conv1", "conv2"))
    return dataclasses.replace(
        full,
        task=dataclasses.replace(full.task, network="cnn_toy", mixstyle=style),
        data=Patterns(size=32),
        train=Train(duration="4 steps", batch_size=16, checkpoint_every="2 steps"),
    )
