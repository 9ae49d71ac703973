"""MixStyle with OSNet-IBN from Market-1501 to DukeMTMC-reID, person re-identification.

Train:  jaxcog train mixstyle/market_osnet_ibn --workdir DIR --train.start-from IMPORTED
        (IMPORTED: jaxcog import-torch mixstyle/market_osnet_ibn osnet_ibn_x1_0_imagenet.pth
                   --out IMPORTED --allow-missing '^params/classifier/')
Back:   --data.train dukemtmc_reid --data.test market1501
Data:   as for mixstyle/market_osnet
"""

import dataclasses

from jaxcog import experiments
from jaxcog.config import Experiment

NEEDS = "Market-1501 and DukeMTMC-reID (jaxcog prepare); ImageNet weights of OSNet-IBN"


def experiment() -> Experiment:
    osnet = experiments.load("mixstyle/market_osnet").experiment()
    return dataclasses.replace(
        osnet, task=dataclasses.replace(osnet.task, network="osnet_ibn_x1_0")
    )


def tiny() -> Experiment:
    return experiments.load("mixstyle/market_osnet").experiment(tiny=True)
