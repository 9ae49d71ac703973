"""MixStyle with OSNet from Market-1501 to DukeMTMC-reID, person re-identification (ICLR 2021).

Train:  jaxcog train mixstyle/market_osnet --workdir DIR --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch mixstyle/market_osnet osnet_x1_0_imagenet.pth --out IMPORTED
                   --allow-missing '^params/classifier/')
Back:   --data.train dukemtmc_reid --data.test market1501
Cross-camera mixing: --task.mixstyle.mix crossdomain --data.sampler cameras
            --train.duration "180 epochs" --task.optimizer.schedule.every "60 epochs"
Data:   jaxcog prepare market1501 --raw DIR; jaxcog prepare dukemtmc_reid --raw DIR
"""

import dataclasses

from jaxcog import experiments
from jaxcog.config import Experiment
from jaxcog.optim import Rule

NEEDS = "Market-1501 and DukeMTMC-reID (jaxcog prepare); ImageNet weights of OSNet"


def experiment() -> Experiment:
    resnet = experiments.load("mixstyle/market_resnet50").experiment()
    style = dataclasses.replace(resnet.task.mixstyle, after=("conv2", "conv3"))
    # Its layer of features has ImageNet weights, too.
    optimizer = dataclasses.replace(
        resnet.task.optimizer, rules=(Rule("^(backbone/|fc_)", lr=0.2),)
    )
    return dataclasses.replace(
        resnet,
        task=dataclasses.replace(
            resnet.task, network="osnet_x1_0", mixstyle=style, optimizer=optimizer
        ),
        train=dataclasses.replace(resnet.train, start_fresh=("^params/classifier/",)),
    )


def tiny() -> Experiment:
    return experiments.load("mixstyle/market_resnet50").experiment(tiny=True)
