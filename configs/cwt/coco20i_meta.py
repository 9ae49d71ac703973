"""CWT on COCO-20i with ResNet-50: the classifier weight transformer learns from base episodes.

Train:  jaxcog train cwt/coco20i_meta --workdir DIR --data.fold 0 --train.start-from BASE
        (BASE: cwt/coco20i_base of the same fold)
5-shot: --data.shot 5
Test:   jaxcog eval DIR --best --data.runs 5
PASCAL: jaxcog eval DIR --best --data.runs 5 --data.test-on pascal (also needs prepared PASCAL-5i)

Batches as in cwt/pascal5i_meta.
"""

import dataclasses

from jaxcog import experiments
from jaxcog.config import Experiment
from jaxcog.data.datasets.segmentation_episodes import Episodes

NEEDS = "prepared COCO-20i (jaxcog prepare coco20i); the first stage (cwt/coco20i_base)"


def experiment() -> Experiment:
    pascal = experiments.load("cwt/pascal5i_meta").experiment()
    return dataclasses.replace(pascal, data=Episodes("coco20i", fold=0, shot=1, size=473))


def tiny() -> Experiment:
    return experiments.load("cwt/pascal5i_meta").experiment(tiny=True)
