"""MixStyle with ResNet-50 from Market-1501 to DukeMTMC-reID, person re-identification (ICLR 2021).

Train:  jaxcog train mixstyle/market_resnet50 --workdir DIR --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch mixstyle/market_resnet50 resnet50.pth --out IMPORTED
                   --allow-missing '^(params|batch_stats)/(fc_|classifier)')
Back:   --data.train dukemtmc_reid --data.test market1501
Cross-camera mixing: --task.mixstyle.mix crossdomain --data.sampler cameras
            --train.duration "180 epochs" --task.optimizer.schedule.every "60 epochs"
Data:   jaxcog prepare market1501 --raw DIR; jaxcog prepare dukemtmc_reid --raw DIR
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.reid import CrossReID
from jaxcog.data.toy.cameras import Cameras
from jaxcog.optim import Optimizer, Rule, Schedule
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.reid.task import ReID

NEEDS = "Market-1501 and DukeMTMC-reID (jaxcog prepare); ImageNet weights of ResNet-50"


def experiment() -> Experiment:
    return Experiment(
        system="mixstyle",
        task=ReID(
            network="resnet50",
            mixstyle=MixStyle(p=0.5, alpha=0.1, mix="random", after=("layer1", "layer2")),
            label_smoothing=0.1,
            optimizer=Optimizer(
                name="sgd",
                lr=0.05,
                momentum=0.9,
                weight_decay=1e-5,
                schedule=Schedule("step", every="20 epochs", gamma=0.1),
                rules=(Rule("^backbone/", lr=0.2),),
            ),
        ),
        data=CrossReID(train="market1501", test="dukemtmc_reid"),
        train=Train(
            duration="60 epochs",
            batch_size=32,
            eval_batch_size=300,
            evaluate_every="20 epochs",
            checkpoint_every="10 epochs",
            start_fresh=("^(params|batch_stats)/(fc_|classifier)",),
        ),
    )


def tiny() -> Experiment:
    task = ReID(network="cnn_toy", mixstyle=MixStyle(after=("conv1", "conv2")), features=16)
    train = Train(duration="4 steps", batch_size=12, checkpoint_every="2 steps")
    return dataclasses.replace(experiment(), task=task, data=Cameras(), train=train)
