"""MixStyle on CoinRun with a noisy bottleneck, IBAC-SNI (ICLR 2021).

Train:  jaxcog train mixstyle/coinrun_ibac_sni --workdir DIR
        (without MixStyle: --task.mixstyle.p 0)
Needs:  pip install 'jaxcog[rl]'; apt-get install libqt5core5a libqt5gui5
"""

import dataclasses

from jaxcog import experiments
from jaxcog.config import Experiment

NEEDS = "the game: pip install 'jaxcog[rl]'; Qt 5"


def experiment() -> Experiment:
    plain = experiments.load("mixstyle/coinrun").experiment()
    weights = dataclasses.replace(plain.task.weights, information=1e-4)
    task = dataclasses.replace(plain.task, samples=12, weights=weights)
    return dataclasses.replace(plain, task=task)


def tiny() -> Experiment:
    return experiments.load("mixstyle/coinrun").experiment(tiny=True)
