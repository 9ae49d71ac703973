"""BriVL fine-tuned for retrieval on AIC-ICC: Chinese captions, five an image.

Train:  jaxcog train brivl/aic_icc --workdir DIR --train.start-from IMPORTED
"""

from jaxcog.config import Experiment, Train
from jaxcog.data.datasets.web_pairs import AICCaptions
from jaxcog.data.toy.weak_pairs import WeakDigits
from jaxcog.optim import Optimizer, Schedule
from jaxcog.systems.brivl.presets import preset, tiny_pretraining
from jaxcog.systems.brivl.task import Pretrain

NEEDS = "AIC-ICC as distributed; a Chinese vocab.txt; a pre-trained run"


def experiment() -> Experiment:
    return Experiment(
        system="brivl",
        task=Pretrain(
            model=preset("base"),
            contrast="batch+queue",
            queue_size=1280,
            optimizer=Optimizer(
                name="adam", lr=1e-5, weight_decay=1e-5, schedule=Schedule("cosine")
            ),
        ),
        data=AICCaptions(size=456),
        train=Train(duration="10 epochs", batch_size=256, dtype="bfloat16", workers=8),
    )


def tiny() -> Experiment:
    return Experiment(
        system="brivl",
        task=tiny_pretraining(),
        data=WeakDigits(),
        train=Train(duration="4 steps", batch_size=8, checkpoint_every="2 steps"),
    )
