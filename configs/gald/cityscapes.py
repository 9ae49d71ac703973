"""GALD with ResNet-50 on Cityscapes, the recipe of the released code.

Train:  jaxcog train gald/cityscapes --workdir DIR [--task.trunk resnet101]
Plan:   jaxcog plan gald/cityscapes --topology v5e:4x4
Test:   --task.protocol.scales 0.75 1 1.25 1.5 1.75 2 --task.protocol.flip True

16 crops a step, one a chip of a v5e:4x4, at the paper's rate and number of steps: each step sees
twice the paper's crops. --train.batch-size 8 is the paper's own. Losses are those of one crop a
device on any number of devices (task.loss.per_images).
"""

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.parsing import Cityscapes
from jaxcog.experiments import load
from jaxcog.systems.gald.task import Parsing, Protocol

DEFAULT = True
NEEDS = "prepared Cityscapes (jaxcog prepare cityscapes); ImageNet weights of a deep-stem ResNet"
SLICE = "v5e:4x4"


def experiment() -> Experiment:
    return Experiment(
        system="gald",
        task=Parsing(trunk="resnet50", pixels="bgr", remat=False, protocol=Protocol(tile=832)),
        data=Cityscapes(crop=(769, 769)),
        train=Train(
            duration="50000 steps",
            batch_size=16,
            eval_batch_size=1,
            dtype="bfloat16",
            evaluate_every="5000 steps",
            checkpoint_every="5000 steps",
            workers=8,
        ),
    )


def tiny() -> Experiment:
    return load("gald/scenes").module.small()
