"""What the OrthoHash paper claims, as `jaxcog reproduce orthohash` checks it on real digits."""

from __future__ import annotations

from jaxcog.claim import AtLeast, Claim, Margin

_PLAIN = {"task.loss": "cross_entropy", "task.use_bn": False}
_METRICS = ("mAP@200", "quantization_cosine", "bit_imbalance")
_OURS, _CE = "OrthoHash (cosine loss and BN)", "plain cross-entropy"

CLAIMS = (
    Claim(
        title="One cosine loss makes codes that retrieve well and lose little by binarization",
        config="orthohash/digits",
        variants={
            _CE: _PLAIN,
            "cross-entropy with BN": {"task.loss": "cross_entropy"},
            "cosine loss without BN": {"task.use_bn": False},
            _OURS: {},
        },
        metrics=_METRICS,
        requirements=(
            Margin(_OURS, _CE, "mAP@200", 0.25),
            AtLeast(_OURS, "mAP@200", 0.72),
            AtLeast(_OURS, "quantization_cosine", 0.87),
            Margin(_OURS, _CE, "quantization_cosine", 0.04),
        ),
        note=(
            "Limits: at this size BN alone, with plain cross-entropy, retrieves as well as the "
            "cosine loss, and the cosine loss needs no BN. What the loss adds over BN is the "
            "quantization cosine."
        ),
    ),
    Claim(
        title="The margin helps",
        config="orthohash/digits",
        variants={"margin 0": {"task.margin": 0.0}, "margin 0.4": {"task.margin": 0.4}},
        metrics=_METRICS,
        requirements=(Margin("margin 0.4", "margin 0", "mAP@200", 0.015),),
    ),
)
