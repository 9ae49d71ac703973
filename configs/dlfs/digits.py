"""DLFS on real digits whose strokes thicken and change colour: three "ages" with a known truth.

Train:  jaxcog train dlfs/digits
Claim:  jaxcog reproduce dlfs
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.toy.ages import DigitAges
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.dlfs.losses import Weights
from jaxcog.systems.dlfs.steps import Objective
from jaxcog.systems.dlfs.task import Synthesis, adam

NEEDS = "nothing: the digits ship with scikit-learn"


def _faster(network: str) -> Optimizer:
    """Such narrow networks learn faster with more; the rate is constant."""
    return dataclasses.replace(adam(network), lr=4e-3, schedule=Schedule())


def experiment() -> Experiment:
    return Experiment(
        system="dlfs",
        task=Synthesis(
            width=16,
            downsamples=1,
            stem=3,
            blocks=2,
            identity_features=32,
            texture_features=(32,),
            age_features=(16, 32, 64),
            latent=32,
            mapping=4,
            styled_blocks=1,
            dims_per_class=8,
            discriminator_width=16,
            discriminator_layers=2,
            remat=False,
            objective=Objective(weights=Weights(shape=0.0, adult=()), ema=0.99, ema_warmup=20.0),
            generator_optimizer=_faster("generator"),
            discriminator_optimizer=_faster("discriminator"),
        ),
        data=DigitAges(),
        train=Train(
            duration="350 steps",
            batch_size=4,
            eval_batch_size=256,
            evaluate_every="350 steps",
            checkpoint_every="175 steps",
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    train = dataclasses.replace(
        full.train, duration="4 steps", batch_size=8, checkpoint_every="2 steps"
    )
    task = dataclasses.replace(  # few layers: compiling takes longer than four steps
        full.task,
        width=4,
        blocks=1,
        identity_features=8,
        texture_features=(8,),
        age_features=(4,),
        latent=8,
        mapping=1,
        styled_blocks=0,
        discriminator_width=4,
    )
    return dataclasses.replace(full, task=task, train=train)
