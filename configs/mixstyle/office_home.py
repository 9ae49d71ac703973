"""MixStyle on Office-Home with random partners, one domain left out (ICLR 2021).

Train:  jaxcog train mixstyle/office_home --workdir DIR --data.target art
            --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch mixstyle/office_home resnet18.pth --out IMPORTED
                   --allow-missing '^params/classifier/')
Data:   jaxcog prepare office_home_dg --raw DIR
"""

from jaxcog import experiments
from jaxcog.config import Experiment, override
from jaxcog.data.datasets.domains import OfficeHome

NEEDS = "Office-Home-DG (jaxcog prepare); ImageNet weights of ResNet-18"


def experiment() -> Experiment:
    pacs = experiments.load("mixstyle/pacs").experiment()
    changes = {"task.mixstyle.after": ("layer1", "layer2"), "data": OfficeHome(target="art")}
    return override(pacs, changes)


def tiny() -> Experiment:
    return experiments.load("mixstyle/pacs").experiment(tiny=True)
