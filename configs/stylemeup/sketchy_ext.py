"""StyleMeUp on Sketchy, extended: photos of the sketched category, mAP and P@200 (CVPR 2021).

Train:  jaxcog train stylemeup/sketchy_ext --workdir DIR --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch stylemeup/sketchy_ext vgg16.pth --out IMPORTED)
Test:   jaxcog eval DIR --best
Plan:   jaxcog plan stylemeup/sketchy_ext --topology v5e:4x4

A task is one photo with three of its sketches, the negative a photo of another class. Queries are
50 sketches of each class that training never sees; classes are known: not zero-shot.
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.sketch_categories import Categories
from jaxcog.data.toy.sketches import StyledDigits
from jaxcog.optim import Optimizer
from jaxcog.systems.stylemeup.losses import Objective, Weights
from jaxcog.systems.stylemeup.meta import InnerLoop
from jaxcog.systems.stylemeup.task import NetworkConfig, StyleMeUp

NEEDS = "Sketchy with its extended photos (jaxcog prepare sketchy); ImageNet weights of VGG-16"
SLICE = "v5e:4x4"


def experiment() -> Experiment:
    return Experiment(
        system="stylemeup",
        task=StyleMeUp(
            network=NetworkConfig("vgg16", latent=64, transform=True),
            objective=Objective("paper", Weights(reg=1.0), margin=0.2),
            inner=InnerLoop(lr=0.005, steps=1, first_order=False),
            optimizer=Optimizer("adam", lr=1e-4),
        ),
        data=Categories("sketchy"),
        train=Train(
            duration="20 epochs",
            batch_size=32,
            eval_batch_size=256,
            evaluate_every="1 epoch",
            checkpoint_every="1 epoch",
            start_fresh=(r"^params/(psi|transform|decoder|encoder/(content|mu|logvar))",),
            workers=8,
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    return dataclasses.replace(
        full,
        task=dataclasses.replace(
            full.task,
            network=NetworkConfig("conv", latent=8, widths=(4, 8), hidden=16),
            optimizer=Optimizer("adam", lr=1e-3),
        ),
        data=StyledDigits(),
        train=Train(
            duration="4 steps", batch_size=8, eval_batch_size=8, checkpoint_every="2 steps"
        ),
    )
