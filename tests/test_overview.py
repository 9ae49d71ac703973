"""Tables over all systems, on made-up rows; one real claim in small, with its pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jaxcog import cli, overview, reproduce
from jaxcog.claim import AtLeast, Claim
from jaxcog.errors import DataError
from jaxcog.training.progress import Silent

PLAN = {
    "config": "a/b",
    "topology": "v5e:4x4",
    "batch": 64,
    "fits": True,
    "hbm_bytes_per_chip": 8 * 2**30,
    "hbm_capacity_bytes": 16 * 2**30,
    "flops_per_chip": 2e12,
    "estimated_step_seconds": 0.02,
    "estimated_mfu": 0.51,
    "collective_bytes": {"all-reduce": 2**30},
}
BENCH = {
    "config": "a/b",
    "device": "cpu",
    "devices": 1,
    "batch_size": 32,
    "compile_seconds": 1.0,
    "step_seconds": 0.01,
    "examples_per_second": 3200.0,
    "mfu": None,
    "input_batches_per_second": 200.0,
    "peak_memory_bytes": 2**20,
    "loop_over_bare_step": 1.01,
}


def claim(value: float) -> Claim:
    return Claim(
        title="Digits can be hashed",
        config="orthohash/digits",
        variants={"on": {}},
        metrics=("mAP@200",),
        common={"train.duration": "2 steps"},
        seeds=1,
        requirements=(AtLeast("on", "mAP@200", value),),
    )


def test_plan_table_shows_what_failed_too():
    failed = {"config": "c/d", "topology": "v5e:2x2", "batch": 8, "error": "no such thing"}
    unknown = {**PLAN, "fits": None, "estimated_step_seconds": None, "estimated_mfu": None}
    unknown |= {"collective_bytes": None}
    rows = overview.plan_table([PLAN, failed, unknown]).rows
    assert rows[0][3:] == ["yes", "8 GiB", "50%", "2", "20 ms", "51%", "1 GiB"]
    assert "no such thing" in rows[1][3]
    assert rows[2][3] == rows[2][7] == "?"
    assert {len(row) for row in rows} == {10}


def test_bench_table():
    made_up = {**BENCH, "input_batches_per_second": None}
    rows = overview.bench_table([BENCH, {"config": "c/d", "error": "why"}, made_up]).rows
    assert rows[0][4] == "10 ms"
    assert "why" in rows[1][1]
    assert (rows[0][7], rows[2][7]) == ("2", "?")


def test_a_failing_config_is_a_row():
    row = overview._json_of(["plan", "no/such"], batch=3)
    assert row["batch"] == 3
    assert 'no config "no/such"' in row["error"]


@pytest.mark.parametrize("verb", ["plan", "bench"])
def test_all_stands_alone(verb: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main([verb, "mixstyle/digits", "--all"]) == 2
    assert "--all" in capsys.readouterr().err
    assert cli.main([verb, "mixstyle/digits", "--out", "x"]) == 2


def test_one_claim_with_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(reproduce, "claims_of", lambda system: (claim(0.0),))
    command = ["reproduce", "orthohash", "--json", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["held"]
    assert said["claims"][0]["checks"][0]["measured"] > 0
    assert "Digits can be hashed" in (tmp_path / "claims.md").read_text()
    assert (tmp_path / "index.html").is_file()
    assert list(tmp_path.glob("*.png"))
    kept = overview.read_claims("orthohash", tmp_path)
    assert kept.results[0].table() == reproduce.kept(claim(0.0), said["claims"][0]).table()
    assert kept.made == said["made"]
    monkeypatch.setattr(reproduce, "claims_of", lambda system: (claim(200.0),))
    assert not overview.read_claims("orthohash", tmp_path).held, "old numbers, new requirement"
    assert overview.read_claims("orthohash", tmp_path, seeds=2) is None
    assert overview.read_claims("orthohash", tmp_path / "nothing") is None
    (tmp_path / overview.CLAIMS_FILE).write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        overview.read_claims("orthohash", tmp_path)


def test_what_was_reproduced_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reproduce, "systems", lambda: ["orthohash"])
    monkeypatch.setattr(reproduce, "claims_of", lambda system: (claim(0.0),))
    values = {"on": {"mAP@200": np.array([[50.0]])}}
    checks = (("mAP@200 of on at least 0", 50.0, True),)
    result = reproduce.ClaimResult(claim(0.0), values, checks, 1.0)
    one = overview.SystemClaims("orthohash", [result], made="some day")
    overview.write_claims(one, tmp_path / "orthohash")
    monkeypatch.delattr(reproduce, "reproduce")
    (found,) = overview.reproduce_all(Silent(), out=tmp_path)
    assert found.results[0].checks == checks
    overview.write_all_claims([found], tmp_path)
    text = (tmp_path / "claims.md").read_text()
    assert "some day" in text
    assert "## orthohash: Digits can be hashed" in text
    assert 'href="orthohash/index.html"' in (tmp_path / "index.html").read_text()


def test_all_claims_are_one_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def no_data(system: str, *_: object, **__: object) -> list[reproduce.ClaimResult]:
        raise overview.UserError(f"{system} has no data")

    monkeypatch.setattr(reproduce, "reproduce", no_data)
    found = list(overview.reproduce_all(Silent()))
    assert [one.system for one in found] == reproduce.systems()
    assert not any(one.held for one in found)
    assert "has no data" in overview.claims_table(found).rows[0][1]
    assert cli.main(["reproduce", "--all"]) == 1
    assert "could not be run" in capsys.readouterr().out
