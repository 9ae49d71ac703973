"""Adaptation from rendered to real objects with MixStyle, VisDA-17 (IJCV 2023).

Train:  jaxcog train mixstyle/visda17 --workdir DIR --data.target real
            --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch mixstyle/visda17 resnet101.pth --out IMPORTED
                   --allow-missing '^(params|batch_stats)/(classifier|head)/')
Data:   jaxcog prepare visda17 --raw DIR
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.few_labels import VisDA17
from jaxcog.data.toy.digits import DigitsSemi
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.semi import SemiSupervised

NEEDS = "VisDA-17 (jaxcog prepare visda17); ImageNet weights of ResNet-101"


def experiment() -> Experiment:
    return Experiment(
        system="mixstyle",
        task=SemiSupervised(
            network="resnet101",
            hidden=(1024, 1024),
            dropout=0.5,
            mixstyle=MixStyle(p=0.5, alpha=0.1, mix="crossdomain", after=("layer1", "layer2")),
            threshold=0.95,
            weight_u=1.0,
            optimizer=Optimizer(
                name="sgd",
                lr=1e-3,
                momentum=0.9,
                weight_decay=5e-4,
                schedule=Schedule("constant"),
            ),
            headline="per_class_accuracy",
        ),
        data=VisDA17(target="real"),
        train=Train(
            duration="10 epochs",
            batch_size=32,
            evaluate_every="1 epoch",
            checkpoint_every="1 epoch",
            start_fresh=("^(params|batch_stats)/(classifier|head)/",),
        ),
    )


def tiny() -> Experiment:
    style = MixStyle(mix="crossdomain", after=("conv1", "conv2"))
    task = SemiSupervised(network="cnn_toy", mixstyle=style, mix_labelled=True, hidden=(16,))
    train = Train(duration="4 steps", batch_size=12, checkpoint_every="2 steps")
    return dataclasses.replace(experiment(), task=task, data=DigitsSemi(target="b"), train=train)
