"""The room's page does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import jaxcog.systems.gald
from jaxcog import experiments

README = (Path(jaxcog.systems.gald.__file__).parent / "README.md").read_text()


def test_every_config_has_its_row():
    rows = set(re.findall(r"^\| (\w+) \|", README, re.M))
    own = {name.split("/")[1] for name in experiments.names() if name.startswith("gald/")}
    assert own <= rows


def test_what_the_page_names_can_be_imported():
    names = re.findall(r"`(\w+)`", README.split("## Use it")[1].split("jaxcog train")[0])
    for name in set(names) - {"jit", "shard_map", "pmap", "axis_name"}:
        assert hasattr(jaxcog.systems.gald, name), name
