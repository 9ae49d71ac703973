"""OrthoHash on MS-COCO with AlexNet, images with several labels: 64-bit codes, mAP@5000.

Train:  jaxcog train orthohash/coco --workdir DIR --train.start-from IMPORTED
        (IMPORTED: as for orthohash/imagenet100; the official code instead of the paper:
        --task.no-multi-label --data.augmentation code)
Data:   jaxcog prepare coco --raw DIR
"""

from jaxcog import experiments
from jaxcog.config import Experiment, override
from jaxcog.data.datasets.hashing import COCO

NEEDS = "MS-COCO with HashNet's lists (jaxcog prepare coco); ImageNet weights of AlexNet"


def experiment() -> Experiment:
    changes = {"task.multi_label": True, "task.map_at": 5000, "data": COCO()}
    return override(experiments.load("orthohash/imagenet100").experiment(), changes)


def tiny() -> Experiment:
    one_label = experiments.load("orthohash/imagenet100").experiment(tiny=True)
    return override(one_label, {"task.multi_label": True, "data.multi_label": True})
