"""QAT on THUMOS14: 1-shot episodes of windows, in which actions are short.

Train:  jaxcog train qat/thumos --workdir DIR --train.start-from BASE
        (BASE: jaxcog train qat/thumos_base --workdir BASE)
5-shot: --data.shots 5
"""

from jaxcog import experiments
from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.temporal import ThumosEpisodes
from jaxcog.optim import Optimizer
from jaxcog.systems.qat.judging import Detector
from jaxcog.systems.qat.model import GTADConfig
from jaxcog.systems.qat.task import FewShot

NEEDS = "as qat/thumos_base, and its checkpoint"


def experiment() -> Experiment:
    return Experiment(
        system="qat",
        task=FewShot(
            network=GTADConfig(max_duration=64, bins=(16, 16), kernel=3),
            detector=Detector(sigma=0.46, protocol="thumos"),
            optimizer=Optimizer(name="adam", lr=1e-3),
        ),
        data=ThumosEpisodes(shots=1, instances="multi"),
        train=Train(
            duration="1000 steps",
            batch_size=32,
            eval_batch_size=64,
            evaluate_every="250 steps",
            checkpoint_every="250 steps",
            start_fresh=("^params/transformer/",),
        ),
    )


def tiny() -> Experiment:
    return experiments.load("qat/activitynet").experiment(tiny=True)
