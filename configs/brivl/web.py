"""BriVL whole: EfficientNet-B7 and RoBERTa-large on 650 M weakly correlated pairs of the web.

Train:  jaxcog train brivl/web --workdir DIR --train.start-from IMPORTED
Plan:   jaxcog plan brivl/web --topology v5e:16x16
"""

from jaxcog.config import Experiment, Mesh, Train
from jaxcog.data.datasets.web_pairs import WebPairs
from jaxcog.data.toy.weak_pairs import WeakDigits
from jaxcog.systems.brivl.presets import preset, tiny_pretraining
from jaxcog.systems.brivl.task import Pretrain

NEEDS = "image-text shards of your own; a Chinese vocab.txt; weights of both backbones"
DEFAULT = True
SLICE = "v5e:16x16"


def experiment() -> Experiment:
    return Experiment(
        system="brivl",
        task=Pretrain(
            model=preset("paper"),
            contrast="batch+queue",
            queue_size=15360,  # 5 batches, as the paper's 13440 are of its 2688
            momentum=0.99,
            share_trunk=True,
        ),
        data=WebPairs(size=600),
        train=Train(
            duration="1 epoch",
            batch_size=3072,
            eval_batch_size=1024,
            dtype="bfloat16",
            evaluate_every="5000 steps",
            checkpoint_every="1000 steps",
            corrupt_limit=1_000_000,
            workers=8,
        ),
        mesh=Mesh(data=-1, fsdp=16),
    )


def tiny() -> Experiment:
    return Experiment(
        system="brivl",
        task=tiny_pretraining(),
        data=WeakDigits(),
        train=Train(duration="4 steps", batch_size=8, checkpoint_every="2 steps"),
    )
