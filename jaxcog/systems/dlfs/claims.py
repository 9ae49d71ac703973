"""What the DLFS paper claims, as `jaxcog reproduce dlfs` checks it on real digits with "ages"."""

from __future__ import annotations

from jaxcog.claim import AtLeast, AtMost, Claim, Ratio

_METRICS = ("age_accuracy", "l1_ratio", "ink_ratio", "retrieval")
_FULL = "DLFS"
_OFF = "both transformations off"
_ONLY_GAN = "no reconstruction, cycle, identity"

CLAIMS = (
    Claim(
        title="Age is controlled by the two conditional transformations",
        config="dlfs/digits",
        variants={
            _OFF: {"task.shape_transform": False, "task.texture_transform": False},
            _FULL: {},
        },
        metrics=_METRICS,
        seeds=2,
        requirements=(
            AtLeast(_FULL, "age_accuracy", 0.90),
            AtMost(_FULL, "l1_ratio", 0.50),
            AtMost(_FULL, "ink_ratio", 0.40),
            AtMost(_OFF, "age_accuracy", 0.50),
            AtLeast(_OFF, "l1_ratio", 0.65),
        ),
        note=(
            "Limit: either transformation alone is enough on digits, so nothing is claimed about "
            "one of them being off. Ratios are distances to the true picture over the input's."
        ),
    ),
    Claim(
        title="Reconstruction, cycle and identity terms keep who it is",
        config="dlfs/digits",
        variants={
            _ONLY_GAN: {
                "task.objective.weights.reconstruction": 0.0,
                "task.objective.weights.cycle": 0.0,
                "task.objective.weights.identity": 0.0,
            },
            _FULL: {},
        },
        metrics=_METRICS,
        seeds=2,
        requirements=(
            AtLeast(_FULL, "retrieval", 0.20),
            Ratio(_FULL, _ONLY_GAN, "retrieval", 1.7),
        ),
        note="Chance is 0.0025. Nothing is claimed about the identity term on its own.",
    ),
)
