"""A VQGAN (f16, 1024 codes) to draw with: imported, or a small one trained on digits.

Train:  jaxcog train brivl/vqgan --tiny
Import: jaxcog import-torch brivl/vqgan vqgan_imagenet_f16_1024.ckpt --out DIR
"""

import dataclasses

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.web_pairs import WebPairs
from jaxcog.data.toy.weak_pairs import WeakDigits
from jaxcog.optim import Optimizer
from jaxcog.systems.brivl.prior import Prior
from jaxcog.systems.brivl.vqgan import VQGANConfig

NEEDS = "the official checkpoint, or image-text shards of your own"


def experiment() -> Experiment:
    return Experiment(
        system="brivl",
        task=Prior(),
        data=WebPairs(size=256, examples=1_000_000),
        train=Train(duration="1 epoch", batch_size=64, corrupt_limit=10_000, workers=8),
    )


def tiny() -> Experiment:
    full = experiment()
    prior = VQGANConfig(
        channels=8,
        multipliers=(1,),
        blocks=1,
        attention_at=(),
        resolution=8,
        z_channels=8,
        codes=64,
        code_width=16,
        groups=4,
    )
    return dataclasses.replace(
        full,
        task=Prior(vqgan=prior, optimizer=Optimizer(name="adam", lr=2e-3)),
        data=WeakDigits(),
        train=Train(duration="4 steps", batch_size=16, checkpoint_every="2 steps"),
    )
