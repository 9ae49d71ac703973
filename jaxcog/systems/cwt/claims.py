"""What the paper claims, as `jaxcog reproduce cwt` checks it on grids of real digits."""

from __future__ import annotations

from jaxcog.claim import Claim, Margin

_ON = "with transformer"

CLAIMS = (
    Claim(
        title="Rewriting the classifier after a look at the query segments classes never seen",
        config="cwt/digits_meta",
        after="cwt/digits_base",
        variants={_ON: {}},
        metrics=(
            "novel_miou",
            "novel_support_miou",
            "novel_other_miou",
            "base_miou",
            "base_support_miou",
        ),
        seeds=3,
        requirements=(
            Margin(_ON, _ON, "novel_miou", 3.0, worse_metric="novel_support_miou"),
            Margin(_ON, _ON, "base_miou", 15.0, worse_metric="base_support_miou"),
            Margin(_ON, _ON, "novel_support_miou", -1.0, worse_metric="novel_other_miou"),
        ),
        note=(
            "One run gives all columns. support: the classifier as gradient descent on the support "
            "left it (method off). other: rewritten after a look at another episode's query, which "
            "must not help: what helps is this query's own appearance."
        ),
    ),
)
