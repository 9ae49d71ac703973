"""`--profile START:STOP`: a trace of some updates, and nothing else changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxcog import cli
from jaxcog.errors import ConfigError
from jaxcog.training.profile import PROFILE_FOLDER, Profile


@pytest.mark.parametrize("text", ["", "3", "a:b", "0:2", "5:4", "1:", "-1:3"])
def test_what_is_no_range_is_said(text: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="--profile"):
        Profile.parse(text, tmp_path)


def test_a_trace_is_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    command = ["train", "orthohash/digits", "--tiny", "--workdir", str(tmp_path)]
    assert cli.main([*command, "--profile", "2:3"]) == 0
    assert list((tmp_path / PROFILE_FOLDER).rglob("*.xplane.pb"))
    said = capfd.readouterr().err
    assert "trace of updates 2 to 3" in said
    assert "memory per device" in said
