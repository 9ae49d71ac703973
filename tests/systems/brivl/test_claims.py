"""The claim of the paper, on one seed: what it says of momentum is there to be seen."""

from __future__ import annotations

import dataclasses

import pytest

from jaxcog import reproduce
from jaxcog.systems.brivl.claims import CLAIMS


def test_thresholds_are_those_of_the_learning_check():
    bounds = {(r.metric, r.value) for claim in CLAIMS for r in claim.requirements}
    assert ("zero_shot_accuracy", 55.0) in bounds
    assert ("zero_shot_accuracy", 25.0) in bounds
    assert ("i2t_R@10", 8.0) in bounds


@pytest.mark.slow
def test_the_claim_holds(monkeypatch: pytest.MonkeyPatch):
    from jaxcog.training.progress import Silent

    short = tuple(dataclasses.replace(claim, seeds=1) for claim in CLAIMS)
    monkeypatch.setattr(reproduce, "claims_of", lambda system: short)
    assert all(result.held for result in reproduce.reproduce("brivl", Silent()))
