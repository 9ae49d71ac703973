"""StyleMeUp's losses on real digits drawn in 28 styles: content apart from style.

Train:  jaxcog train stylemeup/digits
Claim:  jaxcog reproduce stylemeup
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.toy.sketches import DrawnDigits
from jaxcog.optim import Optimizer
from jaxcog.systems.stylemeup.losses import Objective, Weights
from jaxcog.systems.stylemeup.task import NetworkConfig, StyleMeUp

NEEDS = "nothing: the digits ship with scikit-learn"


def experiment() -> Experiment:
    return Experiment(
        system="stylemeup",
        task=StyleMeUp(
            network=NetworkConfig(
                "mlp",
                latent=32,
                widths=(192, 192),
                decoder=(192,),
                dropout=0.0,
                transform=False,
            ),
            objective=Objective("paper", Weights(kl=0.02, triplet_full=0, reg=0)),
            meta=False,
            optimizer=Optimizer("adam", lr=1e-3),
        ),
        data=DrawnDigits(),
        train=Train(
            duration="1000 steps",
            batch_size=64,
            eval_batch_size=100,
            evaluate_every="250 steps",
            checkpoint_every="250 steps",
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    return dataclasses.replace(
        full,
        data=DrawnDigits(test=20),
        train=Train(
            duration="4 steps", batch_size=8, eval_batch_size=10, checkpoint_every="2 steps"
        ),
    )
