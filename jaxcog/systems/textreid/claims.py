"""What the paper claims, as `jaxcog reproduce textreid` checks it on generated persons."""

from __future__ import annotations

from jaxcog.claim import AtLeast, Claim, Margin, Wins

_OFF, _ON = "instance and alignment loss", "with the momentum queue"
_QUEUE = {_OFF: {"task.momentum": None}, _ON: {}}
_LEARNED, _GIVEN = "learned words", "given word vectors"
_METRICS = ("mAP", "R@1", "i2t mAP")

CLAIMS = (
    Claim(
        title="A cross-modal momentum queue helps a small batch",
        config="textreid/persons",
        variants=_QUEUE,
        metrics=_METRICS,
        requirements=(
            Margin(_ON, _OFF, "mAP", 2.5),
            Wins(_ON, _OFF, "mAP", 4),
            AtLeast(_OFF, "mAP", 10),
        ),
    ),
    Claim(
        title="Harder: 8 captions of 4 persons a batch",
        config="textreid/persons",
        common={
            "train.batch_size": 8,
            "train.duration": "700 steps",
            "task.optimizer.lr": 3e-3,
            "task.optimizer.schedule.at": ("560 steps",),
        },
        variants=_QUEUE,
        metrics=_METRICS,
        requirements=(Margin(_ON, _OFF, "mAP", 2.5),),
    ),
    Claim(
        title="Harder: a third of the persons to learn from",
        config="textreid/persons",
        common={"data.persons": 40},
        variants=_QUEUE,
        seeds=3,
        metrics=_METRICS,
        note=(
            "A limit: where identities, not only batches, are few, the queue brings little that is "
            "new, since its keys are of the same few persons."
        ),
    ),
    Claim(
        title="Word vectors carry what was learned about one word over to its synonym",
        config="textreid/persons",
        common={"data.train_words": "first", "data.test_words": "second"},
        variants={
            _LEARNED: {"task.textual.words": "learned"},
            _GIVEN: {"data.table": "related"},
        },
        seeds=3,
        metrics=_METRICS,
        requirements=(Margin(_GIVEN, _LEARNED, "mAP", 15),),
        note="Test captions use words that no training caption has; chance mAP is about 3.",
    ),
)
