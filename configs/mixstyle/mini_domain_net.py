"""MixStyle on miniDomainNet with random partners, one domain left out (recipe of Dassl).

Train:  jaxcog train mixstyle/mini_domain_net --workdir DIR --data.target sketch
            --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch mixstyle/mini_domain_net resnet18.pth --out IMPORTED
                   --allow-missing '^params/classifier/')
Data:   jaxcog prepare mini_domain_net --raw DIR
"""

from jaxcog import experiments
from jaxcog.config import Experiment, override
from jaxcog.data.datasets.domains import MiniDomainNet

NEEDS = "miniDomainNet (jaxcog prepare mini_domain_net); ImageNet weights of ResNet-18"


def experiment() -> Experiment:
    office_home = experiments.load("mixstyle/office_home").experiment()
    changes = {
        "task.optimizer.lr": 5e-3,
        "data": MiniDomainNet(target="sketch"),
        "train.duration": "60 epochs",
        "train.batch_size": 128,
    }
    return override(office_home, changes)


def tiny() -> Experiment:
    return experiments.load("mixstyle/pacs").experiment(tiny=True)
