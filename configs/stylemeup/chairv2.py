"""StyleMeUp on QMUL-ChairV2: second-order meta-learning over drawing styles (CVPR 2021).

Train:  jaxcog train stylemeup/chairv2 --workdir DIR --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch stylemeup/chairv2 vgg16.pth --out IMPORTED)
Test:   jaxcog eval DIR --best
Search: jaxcog predict DIR chair.svg photos/ --out OUT

See stylemeup/shoev2 for the choices.
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.sketches import FineGrained
from jaxcog.data.toy.sketches import StyledDigits
from jaxcog.optim import Optimizer
from jaxcog.systems.stylemeup.losses import Objective, Weights
from jaxcog.systems.stylemeup.meta import InnerLoop
from jaxcog.systems.stylemeup.task import NetworkConfig, StyleMeUp

NEEDS = "QMUL-ChairV2 (jaxcog prepare chairv2); ImageNet weights of VGG-16"


def experiment() -> Experiment:
    return Experiment(
        system="stylemeup",
        task=StyleMeUp(
            network=NetworkConfig("vgg16", latent=64, transform=True),
            objective=Objective("paper", Weights(reg=1.0), margin=0.2),
            inner=InnerLoop(lr=0.005, steps=1, first_order=False),
            optimizer=Optimizer("adam", lr=1e-4),
        ),
        data=FineGrained("chairv2"),
        train=Train(
            duration="200 epochs",
            batch_size=16,
            eval_batch_size=64,
            evaluate_every="5 epochs",
            checkpoint_every="5 epochs",
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
