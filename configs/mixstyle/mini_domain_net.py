"""MixStyle on miniDomainNet with random partners, one domain left out (recipe of Dassl).

Train:  jaxcog train mixstyle/mini_domain_net --workdir DIR --data.target sketch
            --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch mixstyle/mini_domain_net resnet18.pth --out IMPORTED
                   --allow-missing '^params/classifier/')
Data:   jaxcog prepare mini_domain_net --raw DIR
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.domains import MiniDomainNet
from jaxcog.data.toy.patterns import Patterns
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.task import Classification

NEEDS = "miniDomainNet (jaxcog prepare mini_domain_net); ImageNet weights of ResNet-18"


def experiment() -> Experiment:
    return Experiment(
        system="mixstyle",
        task=Classification(
            network="resnet18",
            mixstyle=MixStyle(p=0.5, alpha=0.1, mix="random", after=("layer1", "layer2")),
            optimizer=Optimizer(
                name="sgd",
                lr=5e-3,
                momentum=0.9,
                weight_decay=5e-4,
                schedule=Schedule("cosine", per="epoch"),
            ),
        ),
        data=MiniDomainNet(target="sketch"),
        train=Train(
            duration="60 epochs",
            batch_size=128,
            evaluate_every="10 epochs",
            checkpoint_every="10 epochs",
            start_fresh=("^params/classifier/",),
        ),
    )


def tiny() -> Experiment:
    task = Classification(network="cnn_toy", mixstyle=MixStyle(after=("conv1", "conv2")))
    train = Train(duration="4 steps", batch_size=16, checkpoint_every="2 steps")
    return dataclasses.replace(experiment(), task=task, data=Patterns(size=32), train=train)
