"""G-TAD on the 16 base classes of THUMOS14: windows of 256 snippets, up to 64 of them an action.

Train:  jaxcog train qat/thumos_base --workdir BASE
Data:   jaxcog prepare thumos14_i3d --raw DIR
"""

from jaxcog import experiments
from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.temporal import ThumosBase
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.qat.base import BaseStage
from jaxcog.systems.qat.model import GTADConfig

NEEDS = "THUMOS14 features and annotations (jaxcog prepare thumos14_i3d)"


def experiment() -> Experiment:
    return Experiment(
        system="qat",
        task=BaseStage(
            network=GTADConfig(max_duration=64, bins=(16, 16), kernel=3),
            sigma=0.46,
            optimizer=Optimizer(
                name="adam",
                lr=4e-5,
                weight_decay=1e-4,
                schedule=Schedule("multistep", per="epoch", at=("5 epochs",)),
            ),
        ),
        data=ThumosBase(),
        train=Train(duration="10 epochs", batch_size=8, eval_batch_size=8),
    )


def tiny() -> Experiment:
    return experiments.load("qat/activitynet_base").experiment(tiny=True)
