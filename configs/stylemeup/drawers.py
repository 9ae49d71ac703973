"""StyleMeUp on generated drawers with a shift each: meta-learning to adapt to an unseen user.

Train:  jaxcog train stylemeup/drawers
Claim:  jaxcog reproduce stylemeup
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.toy.sketches import ShiftedDrawers
from jaxcog.optim import Optimizer
from jaxcog.systems.stylemeup.losses import Objective, Weights
from jaxcog.systems.stylemeup.meta import InnerLoop
from jaxcog.systems.stylemeup.task import NetworkConfig, StyleMeUp

NEEDS = "nothing: the drawers are generated"


def experiment() -> Experiment:
    return Experiment(
        system="stylemeup",
        task=StyleMeUp(
            network=NetworkConfig("mlp", latent=16, widths=(96, 96), dropout=0.0, transform=False),
            objective=Objective(
                weights=Weights(kl=0, self_=0, style=0, domain=0, triplet_full=0, reg=0)
            ),
            inner=InnerLoop(lr=0.5, steps=1, adapt="encoder"),
            over="vmap",
            shots=(0, 1, 5, 10),
            optimizer=Optimizer("adam", lr=1e-3),
        ),
        data=ShiftedDrawers(),
        train=Train(
            duration="600 steps",
            batch_size=16,
            eval_batch_size=40,
            evaluate_every="200 steps",
            checkpoint_every="200 steps",
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    return dataclasses.replace(
        full,
        task=dataclasses.replace(full.task, shots=(0, 2)),
        data=ShiftedDrawers(support=2, users=4, gallery=5),
        train=Train(
            duration="4 steps", batch_size=8, eval_batch_size=4, checkpoint_every="2 steps"
        ),
    )
