"""FixMatch with MixStyle on Office-Home with 10 labels a class and source domain (IJCV 2023).

Train:  jaxcog train mixstyle/ssdg_office_home --workdir DIR --data.target art
            --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch mixstyle/ssdg_office_home resnet18.pth --out IMPORTED
                   --allow-missing '^params/classifier/')
5 labels: --data.per-class 5; an official split: --data.split-file FILE
Data:   jaxcog prepare office_home_dg --raw DIR
"""

import dataclasses

from jaxcog import experiments
from jaxcog.config import Experiment
from jaxcog.data.datasets.few_labels import OfficeHomeFewLabels

NEEDS = "Office-Home-DG (jaxcog prepare); ImageNet weights of ResNet-18"


def experiment() -> Experiment:
    pacs = experiments.load("mixstyle/ssdg_pacs").experiment()
    style = dataclasses.replace(pacs.task.mixstyle, after=("layer1", "layer2"))
    return dataclasses.replace(
        pacs,
        task=dataclasses.replace(pacs.task, mixstyle=style),
        data=OfficeHomeFewLabels(target="art", per_class=10),
        train=dataclasses.replace(
            pacs.train,
            duration="20 epochs",
            evaluate_every="5 epochs",
            checkpoint_every="5 epochs",
        ),
    )


def tiny() -> Experiment:
    return experiments.load("mixstyle/ssdg_pacs").experiment(tiny=True)
