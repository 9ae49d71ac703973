"""What the papers claim, as `jaxcog reproduce gald` checks it on generated scenes."""

from __future__ import annotations

from jaxcog.claim import AtLeast, Claim, Margin

CLAIMS = (
    Claim(
        title="Local distribution tells small objects from large ones, where aggregation blurs",
        config="gald/scenes",
        variants={"aggregation only": {"task.distribute": False}, "with local distribution": {}},
        common={"train.duration": "400 steps"},
        metrics=("miou", "pixel_accuracy"),
        seeds=3,
        requirements=(
            Margin("with local distribution", "aggregation only", "miou", 6.0),
            AtLeast("with local distribution", "miou", 72.0),
        ),
        note=(
            "The mask without its ReLU, u (1 + m). Large and small objects look alike at every "
            "pixel; the mask knows the size of the pattern."
        ),
    ),
    Claim(
        title="Global aggregation brings a far-away cue to every position",
        config="gald/scenes",
        variants={
            "without": {"task.aggregation.name": "none"},
            "pyramid pooling": {"task.aggregation.name": "psp"},
            "non-local": {"task.aggregation.name": "non_local"},
        },
        common={
            "data.kind": "context",
            "data.size": 48,
            "task.trunk": "strided",
            "task.distribute": False,
            "task.downsample": True,
            "task.concat": True,
            "task.optimizer.lr": 0.05,
            "train.batch_size": 8,
            "train.duration": "400 steps",
        },
        metrics=("stuff_iou", "miou"),
        seeds=2,
        requirements=(
            Margin("pyramid pooling", "without", "stuff_iou", 40.0),
            Margin("non-local", "without", "stuff_iou", 40.0),
        ),
        note="The classes of the two halves depend on one small patch somewhere in the image.",
    ),
)
