"""BriVL beyond the paper: towers of 1.8 billion parameters, trained whole, a queue over the mesh.

Train:  jaxcog train brivl/huge --workdir DIR --data.path "/data/*.tar"
Plan:   jaxcog plan brivl/huge --topology v5p:8x8x8
"""

from jaxcog.config import Experiment, Mesh, Train
from jaxcog.data.datasets.web_pairs import WebPairs
from jaxcog.data.toy.weak_pairs import WeakDigits
from jaxcog.systems.brivl.presets import preset, tiny_pretraining
from jaxcog.systems.brivl.task import Pretrain

NEEDS = "image-text shards of your own; a Chinese vocab.txt"
SLICE = "v5p:8x8x8"


def experiment() -> Experiment:
    return Experiment(
        system="brivl",
        task=Pretrain(
            model=preset("huge"),
            contrast="batch+queue",
            queue_size=65536,
            momentum=0.997,  # 16 batches are in the queue
            mask_duplicates=True,
        ),
        data=WebPairs(size=600, antialias=True),
        train=Train(
            duration="1 epoch",
            batch_size=4096,
            eval_batch_size=1024,
            dtype="bfloat16",
            evaluate_every="5000 steps",
            checkpoint_every="1000 steps",
            corrupt_limit=1_000_000,
            workers=8,
        ),
        mesh=Mesh(data=-1, fsdp=64),
    )


def tiny() -> Experiment:
    return Experiment(
        system="brivl",
        task=tiny_pretraining(),
        data=WeakDigits(),
        train=Train(duration="4 steps", batch_size=8, checkpoint_every="2 steps"),
    )
