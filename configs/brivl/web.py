"""BriVL whole: EfficientNet-B7 and RoBERTa-large on 650 M weakly correlated pairs of the web.

Train:  jaxcog train brivl/web --workdir DIR --train.start-from IMPORTED
Plan:   jaxcog plan brivl/web --topology v5e:16x16
"""

import dataclasses

from jaxcog.config import Experiment, Mesh, Train
from jaxcog.data.datasets.web_pairs import WebPairs
from jaxcog.data.toy.weak_pairs import WeakDigits
from jaxcog.nn.bert import BertConfig
from jaxcog.systems.brivl.model import Architecture
from jaxcog.systems.brivl.task import Pretrain

NEEDS = "image-text shards of your own; a Chinese vocab.txt; weights of both backbones"
DEFAULT = True


def experiment() -> Experiment:
    return Experiment(
        system="brivl",
        task=Pretrain(
            model=Architecture(
                cnn="b7",
                image_size=600,
                grids=(6, 1),
                embed_dim=2560,
                bert=BertConfig(width=1024, layers=24, heads=16, hidden=4096),
                freeze="official",
            ),
            contrast="batch+queue",
            queue_size=15360,  # 5 batches; the paper has 13440 for its 2688
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
    return tiny_pairs(experiment())


def tiny_pairs(full: Experiment) -> Experiment:
    """The same task on generated digits, with small towers."""
    model = Architecture(
        cnn="convs",
        image_size=8,
        grids=(2, 1),
        fusion_layers=2,
        fusion_ff=32,
        embed_dim=32,
        bert=BertConfig(vocab=103, width=32, layers=5, heads=4, hidden=32, positions=16),
        text_length=16,
        freeze="official",
    )
    return dataclasses.replace(
        full,
        task=dataclasses.replace(full.task, model=model, queue_size=40),
        data=WeakDigits(),
        train=Train(duration="4 steps", batch_size=8, checkpoint_every="2 steps"),
        mesh=Mesh(),
    )
