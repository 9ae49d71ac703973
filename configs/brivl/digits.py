"""BriVL on real digits with weakly correlated texts: momentum contrast with a queue of 40.

Train:  jaxcog train brivl/digits
Claim:  jaxcog reproduce brivl
"""

from jaxcog.config import Experiment, Train
from jaxcog.data.toy.weak_pairs import WeakDigits
from jaxcog.optim import Optimizer
from jaxcog.systems.brivl.imagination import Inversion
from jaxcog.systems.brivl.presets import preset, tiny_pretraining
from jaxcog.systems.brivl.task import Pretrain

NEEDS = "nothing: the digits ship with scikit-learn"


def experiment() -> Experiment:
    return Experiment(
        system="brivl",
        task=Pretrain(
            model=preset("digits"),
            contrast="queue",
            queue_size=40,
            momentum=0.99,
            augment=False,
            inversion=Inversion(steps=100, lr=0.1, jitter=0, noise=0.4, draws=4, likeness=0.03),
            optimizer=Optimizer(name="adam", lr=1e-3),
        ),
        data=WeakDigits(),
        train=Train(
            duration="1500 steps",
            batch_size=8,
            eval_batch_size=360,
            evaluate_every="500 steps",
            checkpoint_every="500 steps",
        ),
    )


def tiny() -> Experiment:
    return Experiment(
        system="brivl",
        task=tiny_pretraining(),
        data=WeakDigits(),
        train=Train(duration="4 steps", batch_size=8, checkpoint_every="2 steps"),
    )
