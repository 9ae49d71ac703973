"""MixStyle on VLCS with random partners, one domain left out: the recipe of PACS.

Train:  jaxcog train mixstyle/vlcs --workdir DIR --data.target caltech
            --train.start-from IMPORTED
        (IMPORTED: as for mixstyle/pacs)
Data:   jaxcog prepare vlcs --raw DIR
"""

import dataclasses

from jaxcog import experiments
from jaxcog.config import Experiment
from jaxcog.data.datasets.domains import VLCS

NEEDS = "VLCS (jaxcog prepare vlcs); ImageNet weights of ResNet-18"


def experiment() -> Experiment:
    pacs = experiments.load("mixstyle/pacs").experiment()
    return dataclasses.replace(pacs, data=VLCS(target="caltech"))


def tiny() -> Experiment:
    return experiments.load("mixstyle/pacs").experiment(tiny=True)
