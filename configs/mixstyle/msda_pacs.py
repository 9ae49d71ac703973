"""Adaptation from three domains of PACS to the fourth with MixStyle (IJCV 2023).

Train:  jaxcog train mixstyle/msda_pacs --workdir DIR --data.target sketch
            --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch mixstyle/msda_pacs resnet18.pth --out IMPORTED
                   --allow-missing '^params/classifier/')
Data:   jaxcog prepare pacs --raw DIR
"""

from jaxcog import experiments
from jaxcog.config import Experiment, override
from jaxcog.data.datasets.few_labels import PACSAdaptation

NEEDS = "PACS (jaxcog prepare pacs); ImageNet weights of ResNet-18"


def experiment() -> Experiment:
    changes = {
        "task.mix_labelled": True,
        "data": PACSAdaptation(target="sketch"),
        "train.batch_size": 32,
    }
    return override(experiments.load("mixstyle/ssdg_pacs").experiment(), changes)


def tiny() -> Experiment:
    return experiments.load("mixstyle/ssdg_pacs").experiment(tiny=True)
