"""StyleMeUp on QMUL-ShoeV2 as the released code has it: first order, no translation, d = 128.

Train:  jaxcog train stylemeup/shoev2_released --workdir DIR
Import: jaxcog import-torch stylemeup VGG_ShoeV2_model_best.pth --out DIR

The network of the only official checkpoint format. Differences that have no effect on a checkpoint
are kept as well: the regulariser that never learns, gradients that leak into the next step, photos
and sketches with the suffixes 1, 2, 3 only, the best checkpoint chosen on the test set.
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.sketches import FineGrained
from jaxcog.data.toy.sketches import StyledDigits
from jaxcog.optim import Optimizer
from jaxcog.systems.stylemeup.losses import Objective, Weights
from jaxcog.systems.stylemeup.meta import InnerLoop
from jaxcog.systems.stylemeup.task import NetworkConfig, StyleMeUp

NEEDS = "QMUL-ShoeV2 (jaxcog prepare shoev2)"
DEFAULT = True


def experiment() -> Experiment:
    return Experiment(
        system="stylemeup",
        task=StyleMeUp(
            network=NetworkConfig("conv", latent=128, transform=False),
            objective=Objective("released", Weights(self_=0.0), margin=0.2),
            inner=InnerLoop(lr=0.005, steps=1, first_order=True),
            carry_gradients=True,
            optimizer=Optimizer("adam", lr=1e-4),
        ),
        data=FineGrained("shoev2", selection="released", negatives="all", validation=0.0),
        train=Train(
            duration="200 epochs",
            batch_size=12,
            eval_batch_size=64,
            evaluate_every="20 steps",
            checkpoint_every="1 epoch",
            workers=8,
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    return dataclasses.replace(
        full,
        task=dataclasses.replace(
            full.task,
            network=NetworkConfig("conv", latent=8, widths=(4, 8), hidden=16, transform=False),
        ),
        data=StyledDigits(),
        train=Train(
            duration="4 steps", batch_size=8, eval_batch_size=8, checkpoint_every="2 steps"
        ),
    )
