"""DGCNet with ResNet-101 on Cityscapes, the recipe of the released code.

Train:  jaxcog train gald/cityscapes_dgcnet --workdir DIR

The paper's 8 GPUs with one crop of 832 x 832 each; 80.3 to 80.4 mIoU on val, 82.0 on test.
"""

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.parsing import Cityscapes
from jaxcog.experiments import load
from jaxcog.systems.gald.task import Parsing, Protocol

NEEDS = "prepared Cityscapes (jaxcog prepare cityscapes); ImageNet weights of a deep-stem ResNet"


def experiment() -> Experiment:
    return Experiment(
        system="gald",
        task=Parsing(trunk="resnet101", head="dgcnet", pixels="rgb", protocol=Protocol(tile=832)),
        data=Cityscapes(crop=(832, 832)),
        train=Train(
            duration="60000 steps",
            batch_size=8,
            eval_batch_size=1,
            dtype="bfloat16",
            evaluate_every="5000 steps",
            checkpoint_every="5000 steps",
            workers=8,
        ),
    )


def tiny() -> Experiment:
    return load("gald/scenes").module.small()
