"""G-TAD on the 160 base classes of ActivityNet-1.3, the frozen network of QAT (BMVC 2021).

Train:  jaxcog train qat/activitynet_base --workdir BASE
Data:   jaxcog prepare activitynet13_c3d --raw DIR   (or _tsn, _i3d; then --data.features tsn)
Import: jaxcog import-torch qat/activitynet_base GTAD_C3D_best.pth.tar --out BASE
"""

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.temporal import ActivityNetBase
from jaxcog.data.toy.events import EventVideos
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.qat.base import BaseStage
from jaxcog.systems.qat.model import GTADConfig

NEEDS = "ActivityNet-1.3 features and annotations (jaxcog prepare activitynet13_c3d)"
SLICE = "v5e:2x2"


def experiment() -> Experiment:
    return Experiment(
        system="qat",
        task=BaseStage(
            network=GTADConfig(bins=(32, 4), kernel=1),
            optimizer=Optimizer(
                name="adam",
                lr=4e-3,
                weight_decay=1e-4,
                schedule=Schedule("multistep", per="epoch", at=("5 epochs",)),
            ),
        ),
        data=ActivityNetBase(features="c3d"),
        train=Train(duration="10 epochs", batch_size=16, eval_batch_size=16),
    )


def tiny() -> Experiment:
    return Experiment(
        system="qat",
        task=BaseStage(
            network=GTADConfig(channels=16, hidden=(16, 8), bins=(4, 2), groups=4, width=2),
            optimizer=Optimizer(name="adam", lr=1e-3, weight_decay=1e-4),
        ),
        data=EventVideos(length=10, channels=16),
        train=Train(
            duration="4 steps", batch_size=8, eval_batch_size=8, checkpoint_every="2 steps"
        ),
    )
