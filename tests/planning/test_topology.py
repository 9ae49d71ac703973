from __future__ import annotations

import os

import pytest

from jaxcog.errors import ConfigError
from jaxcog.planning import topology
from jaxcog.planning.hardware import TPUS, peak_flops


@pytest.mark.parametrize(
    ("text", "chips", "name"),
    [
        ("v5e:4x4", 16, "v5e:4x4"),
        ("v5e:1x1", 1, "v5e:1x1"),
        ("V6E:2x4", 8, "v6e:2x4"),
        ("v5p:2x2x2", 8, "v5p:2x2x2"),
        ("v4:2x2", 4, "v4:2x2x1"),
    ],
)
def test_slices(text, chips, name):
    slice_ = topology.parse(text)
    assert (slice_.chips, str(slice_)) == (chips, name)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("v5e", "write a generation and the chips"),
        ("v9z:4x4", "Known are v4"),
        ("v5e:4x4x4", "2 dimensions"),
        ("v5e:3x3", "hosts of 2x2"),
        ("v5e:0x4", "0 chips"),
        ("v6e:32x32", "1 to 256"),
        ("4x4", "write a generation"),
    ],
)
def test_unknown_slices_name_the_known_ones(text, why):
    with pytest.raises(ConfigError, match=why) as caught:
        topology.parse(text)
    assert text in str(caught.value)
    assert all(name in str(caught.value) for name in TPUS)


def test_devices_without_having_any():
    if not topology.can_compile():
        pytest.skip("libtpu is not installed (pip install 'jaxcog[tpu]')")
    before = dict(os.environ)
    for text in ("v5e:1x1", "v5e:2x4", "v6e:2x2", "v5p:2x2x1", "v4:2x2x2"):
        slice_ = topology.parse(text)
        devices = topology.devices(slice_)
        assert len(devices) == slice_.chips
        assert {device.device_kind for device in devices} == {slice_.chip.device_kind}
    added = {name for name in os.environ if name not in before}
    assert not any(name.startswith("ALLOW_MULTIPLE") for name in added)


def test_peaks_by_device_kind():
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("NVIDIA H100 PCIe") < peak_flops("NVIDIA H100 80GB HBM3")
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA L4") == 121e12
    assert peak_flops("NVIDIA L40S") is None
    assert peak_flops("cpu") is None


@pytest.mark.parametrize(
    ("slice_", "larger"),
    [
        ("v5e:2x2", "v5e:4x8"),
        ("v5e:4x4", "v5e:8x16"),
        ("v5e:16x16", None),
        ("v5p:4x4x4", "v5p:8x8x8"),
    ],
)
def test_eight_times_the_chips(slice_: str, larger: str | None):
    found = topology.scaled(topology.parse(slice_), 8)
    assert (None if found is None else str(found)) == larger
