"""MixStyle on PACS with partners from another domain (ICLR 2021).

Train:  jaxcog train mixstyle/pacs_domains --workdir DIR --data.target sketch
            --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch mixstyle/pacs_domains resnet18.pth --out IMPORTED
                   --allow-missing '^params/classifier/')
Data:   jaxcog prepare pacs --raw DIR
"""

from jaxcog import experiments
from jaxcog.config import Experiment, override

NEEDS = "PACS (jaxcog prepare pacs); ImageNet weights of ResNet-18"


def experiment() -> Experiment:
    changes = {
        "task.mixstyle.mix": "crossdomain",
        "data.sampler": "domains",
        "train.duration": "150 epochs",
        "train.batch_size": 128,
        "train.evaluate_every": "30 epochs",
        "train.checkpoint_every": "30 epochs",
    }
    return override(experiments.load("mixstyle/pacs").experiment(), changes)


def tiny() -> Experiment:
    tiny_pacs = experiments.load("mixstyle/pacs").experiment(tiny=True)
    return override(tiny_pacs, {"task.mixstyle.mix": "crossdomain"})
