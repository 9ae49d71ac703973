"""What the MixStyle papers claim, as `jaxcog reproduce mixstyle` checks it on real digits."""

from __future__ import annotations

from jaxcog.claim import AtLeast, Claim, Margin

_ON_AND_OFF = {"without MixStyle": {"task.mixstyle.p": 0.0}, "with MixStyle": {}}

CLAIMS = (
    Claim(
        title="MixStyle raises accuracy in a visual domain that training never saw",
        config="mixstyle/digits",
        variants=_ON_AND_OFF,
        cells={f"target {name}": {"data.target": name} for name in ("a", "c", "d")},
        metrics=("accuracy", "source/accuracy"),
        requirements=(
            Margin("with MixStyle", "without MixStyle", "accuracy", 4.0),
            AtLeast("with MixStyle", "accuracy", 90.0),
        ),
        seeds=2,
        note="Target b is left out: it lies outside the sources' colours, and scatters too much.",
    ),
    Claim(
        title="MixStyle between labelled and pseudo-labelled images helps FixMatch",
        config="mixstyle/digits_semi",
        variants={"FixMatch": {"task.mixstyle.p": 0.0}, "FixMatch with MixStyle": {}},
        cells={f"target {name}": {"data.target": name} for name in ("b", "d")},
        common={"train.batch_size": 24},
        seeds=6,
        metrics=("accuracy",),
        requirements=(Margin("FixMatch with MixStyle", "FixMatch", "accuracy", 3.0),),
        note="Four labels a class and domain. Single runs scatter by 20 points, and some reverse.",
    ),
    Claim(
        title="Limit: no such effect where the target inverts dark and bright",
        config="mixstyle/digits",
        variants=_ON_AND_OFF,
        cells={"target a, inverted": {"data.target": "a"}},
        common={"data.polarity": True},
        seeds=1,
        metrics=("accuracy", "source/accuracy"),
        note="Mixing channel statistics makes new colours, not dark digits on a bright ground.",
    ),
)
