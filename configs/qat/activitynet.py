"""QAT on ActivityNet-1.3: 1-shot episodes of several instances a video (BMVC 2021).

Train:  jaxcog train qat/activitynet --workdir DIR --train.start-from BASE
        (BASE: jaxcog train qat/activitynet_base --workdir BASE)
5-shot: --data.shots 5 --data.longer-than 0.15 0.2
Single: --data.instances single --data.longer-than 0.15 0.0
"""

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.temporal import ActivityNetEpisodes
from jaxcog.data.toy.events import EventEpisodes
from jaxcog.optim import Optimizer
from jaxcog.systems.qat.judging import Detector
from jaxcog.systems.qat.model import GTADConfig
from jaxcog.systems.qat.task import FewShot

NEEDS = "as qat/activitynet_base, and its checkpoint"


def experiment() -> Experiment:
    return Experiment(
        system="qat",
        task=FewShot(
            network=GTADConfig(bins=(32, 4), kernel=1),
            num_heads=2,
            dropout=(0.1, 0.5),
            temperature=20.0,
            inner_steps=99,
            inner_lr=0.025,
            detector=Detector(sigma=0.8),
            optimizer=Optimizer(name="adam", lr=1e-3),
        ),
        data=ActivityNetEpisodes(
            features="c3d", shots=1, instances="multi", longer_than=(0.15, 0.1)
        ),
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
    return Experiment(
        system="qat",
        task=FewShot(
            network=GTADConfig(channels=16, hidden=(16, 8), bins=(4, 2), groups=4, width=2),
            inner_steps=4,
        ),
        data=EventEpisodes(
            shots=2,
            length=16,
            channels=16,
            embedded=16,
            base_classes=3,
            novel_classes=2,
            videos_per_class=4,
            queries_per_class=4,
            episodes=64,
        ),
        train=Train(
            duration="4 steps", batch_size=8, eval_batch_size=8, checkpoint_every="2 steps"
        ),
    )
