"""StyleMeUp on QMUL-ChairV2: second-order meta-learning over drawing styles (CVPR 2021).

Train:  jaxcog train stylemeup/chairv2 --workdir DIR --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch stylemeup/chairv2 vgg16.pth --out IMPORTED)
Test:   jaxcog eval DIR --best
Search: jaxcog predict DIR chair.svg photos/ --out OUT

See stylemeup/shoev2 for the choices.
"""

import dataclasses

from jaxcog import experiments
from jaxcog.config import Experiment
from jaxcog.data.datasets.sketches import FineGrained

NEEDS = "QMUL-ChairV2 (jaxcog prepare chairv2); ImageNet weights of VGG-16"


def experiment() -> Experiment:
    shoes = experiments.load("stylemeup/shoev2").experiment()
    return dataclasses.replace(shoes, data=FineGrained("chairv2"))


def tiny() -> Experiment:
    return experiments.load("stylemeup/shoev2").experiment(tiny=True)
