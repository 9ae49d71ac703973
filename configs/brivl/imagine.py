"""BriVL on the digits once more, in noise: towers whose pictures of a name a person can read.

Train:  jaxcog train brivl/imagine --workdir DIR
        (its report shows the names of the digits as pictures; `jaxcog predict DIR words.txt`)
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
            contrast="batch+queue",
            queue_size=320,
            momentum=0.99,
            augment=False,
            noise=0.6,
            inversion=Inversion(steps=200, lr=0.1, jitter=0, noise=0.3, draws=4, likeness=0.02),
            optimizer=Optimizer(name="adam", lr=1e-3),
        ),
        data=WeakDigits(),
        train=Train(
            duration="2000 steps",
            batch_size=64,
            eval_batch_size=360,
            evaluate_every="1000 steps",
            checkpoint_every="1000 steps",
        ),
    )


def tiny() -> Experiment:
    return Experiment(
        system="brivl",
        task=tiny_pretraining(),
        data=WeakDigits(),
        train=Train(duration="4 steps", batch_size=8, checkpoint_every="2 steps"),
    )
