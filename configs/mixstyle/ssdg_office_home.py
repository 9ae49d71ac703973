"""FixMatch with MixStyle on Office-Home with 10 labels a class and source domain (IJCV 2023).

Train:  jaxcog train mixstyle/ssdg_office_home --workdir DIR --data.target art
            --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch mixstyle/ssdg_office_home resnet18.pth --out IMPORTED
                   --allow-missing '^params/classifier/')
5 labels: --data.per-class 5; an official split: --data.split-file FILE
Data:   jaxcog prepare office_home_dg --raw DIR
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.few_labels import OfficeHomeFewLabels
from jaxcog.data.toy.digits import DigitsSemi
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.semi import SemiSupervised

NEEDS = "Office-Home-DG (jaxcog prepare); ImageNet weights of ResNet-18"


def experiment() -> Experiment:
    return Experiment(
        system="mixstyle",
        task=SemiSupervised(
            network="resnet18",
            mixstyle=MixStyle(p=0.5, alpha=0.1, mix="crossdomain", after=("layer1", "layer2")),
            threshold=0.95,
            weight_u=1.0,
            optimizer=Optimizer(
                name="sgd",
                lr=3e-3,
                momentum=0.9,
                weight_decay=5e-4,
                schedule=Schedule("cosine", per="epoch"),
            ),
        ),
        data=OfficeHomeFewLabels(target="art", per_class=10),
        train=Train(
            duration="20 epochs",
            batch_size=48,
            evaluate_every="5 epochs",
            checkpoint_every="5 epochs",
            start_fresh=("^params/classifier/",),
        ),
    )


def tiny() -> Experiment:
    style = MixStyle(mix="crossdomain", after=("conv1", "conv2"))
    task = SemiSupervised(network="cnn_toy", mixstyle=style, mix_labelled=True, hidden=(16,))
    train = Train(duration="4 steps", batch_size=12, checkpoint_every="2 steps")
    return dataclasses.replace(experiment(), task=task, data=DigitsSemi(target="b"), train=train)
