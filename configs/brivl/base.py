"""BriVL as released: EfficientNet-B5 and RoBERTa-base, pre-trained as the official code does.

Train:  jaxcog train brivl/base --workdir DIR --data.path "/data/*.tar"
Import: jaxcog import-torch brivl/base BriVL-1.0-5500w.pth --out DIR
"""

from jaxcog.config import Experiment, Mesh, Train
from jaxcog.data.datasets.web_pairs import WebPairs
from jaxcog.data.toy.weak_pairs import WeakDigits
from jaxcog.systems.brivl.presets import preset, tiny_pretraining
from jaxcog.systems.brivl.task import Pretrain

NEEDS = "image-text shards of your own; a Chinese vocab.txt; the released checkpoint"


def experiment() -> Experiment:
    return Experiment(
        system="brivl",
        task=Pretrain(
            model=preset("base"),
            contrast="queue",
            queue_size=9600,
            momentum=0.99,
        ),
        data=WebPairs(size=456, examples=30_000_000),
        train=Train(
            duration="1 epoch",
            batch_size=1920,
            eval_batch_size=1024,
            dtype="bfloat16",
            evaluate_every="5000 steps",
            checkpoint_every="1000 steps",
            corrupt_limit=100_000,
            workers=8,
        ),
        mesh=Mesh(data=-1, fsdp=4),
    )


def tiny() -> Experiment:
    return Experiment(
        system="brivl",
        task=tiny_pretraining(),
        data=WeakDigits(),
        train=Train(duration="4 steps", batch_size=8, checkpoint_every="2 steps"),
    )
