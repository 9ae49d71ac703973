"""MixStyle on CoinRun with a noisy bottleneck, IBAC-SNI (ICLR 2021).

Train:  jaxcog train mixstyle/coinrun_ibac_sni --workdir DIR
        (without MixStyle: --task.mixstyle.p 0)
Needs:  pip install 'jaxcog[rl]'; apt-get install libqt5core5a libqt5gui5
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.coinrun import CoinRun
from jaxcog.data.toy.runner import Runner
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.rl.objective import Weights
from jaxcog.systems.mixstyle.rl.task import Play

NEEDS = "the game: pip install 'jaxcog[rl]'; Qt 5"


def experiment() -> Experiment:
    return Experiment(
        system="mixstyle",
        task=Play(
            mixstyle=MixStyle(p=1.0, alpha=0.1, after=("sequence1", "sequence2"), ddof=0),
            samples=12,
            weights=Weights(entropy=0.01, value=0.5, kernels=1e-4, information=1e-4),
            workers=3,
            gradient_factor=1.5,
            gamma=0.999,
            lam=0.95,
            epochs=3,
            minibatches=8,
            lr=5e-4,
            clip=0.2,
        ),
        data=CoinRun(levels=500, augment=True, horizon=256),
        train=Train(
            duration="24414 steps",  # of 256 x 32 frames for each worker: 200 million
            batch_size=96,  # 32 environments for each worker
            eval_batch_size=100,
            evaluate_every="100 steps",
            checkpoint_every="100 steps",
        ),
    )


def tiny() -> Experiment:
    full = experiment()
    # With a noisy bottleneck: one tiny run, which covers plain and noisy policies alike.
    small = Play(
        depths=(4, 4),
        hidden=16,
        mixstyle=MixStyle(p=1.0, alpha=0.1, after=("sequence1",), ddof=0),
        samples=2,
        workers=2,
        epochs=2,
        minibatches=2,
    )
    return dataclasses.replace(
        full,
        task=small,
        data=Runner(size=16, horizon=8, episodes=8, limit=20),
        train=Train(
            duration="4 steps", batch_size=8, eval_batch_size=8, checkpoint_every="2 steps"
        ),
    )
