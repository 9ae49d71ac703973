"""BriVL small: EfficientNet-B0 and a BERT of four layers, contrast in the batch, from scratch.

Train:  jaxcog train brivl/small --workdir DIR --data.path "/data/*.tar"
"""

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.web_pairs import WebPairs
from jaxcog.data.toy.weak_pairs import WeakDigits
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.brivl.presets import preset, tiny_pretraining
from jaxcog.systems.brivl.task import Pretrain

NEEDS = "image-text shards of your own; a Chinese vocab.txt"


def experiment() -> Experiment:
    return Experiment(
        system="brivl",
        task=Pretrain(
            model=preset("small"),
            contrast="in_batch",
            optimizer=Optimizer(
                name="adamw",
                lr=5e-4,
                weight_decay=0.05,
                schedule=Schedule("cosine", warmup="2000 steps"),
                clip_norm=1.0,
            ),
        ),
        data=WebPairs(size=224, antialias=True, examples=3_000_000),
        train=Train(
            duration="10 epochs",
            batch_size=4096,
            eval_batch_size=1024,
            dtype="bfloat16",
            corrupt_limit=10_000,
            workers=8,
        ),
    )


def tiny() -> Experiment:
    return Experiment(
        system="brivl",
        task=tiny_pretraining(),
        data=WeakDigits(),
        train=Train(duration="4 steps", batch_size=8, checkpoint_every="2 steps"),
    )
