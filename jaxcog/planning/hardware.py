"""Published figures of accelerators: memory, peak arithmetic, bandwidths.

Sources: TPU, the "System architecture" tables of https://cloud.google.com/tpu/docs (pages v4, v5e,
v5p, v6e); GPU, NVIDIA's data sheets of the A100, H100, H200, L4 and V100 (dense rates, without
sparsity). Two columns are not in those tables. `hbm_bytes` is what the XLA compiler lets a program
use, a little less than the published 32, 16, 95 and 32 GiB. `clock_hz` is the peak rate over the
multiply-adds that the compiler's cost model counts per cycle; for v4 and v5p that equals the
published clock.
"""

from __future__ import annotations

import dataclasses
import re

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class TpuChip:
    """One TPU chip, which is one JAX device (v4 and v5p join their two cores: megacore).

    dimensions: of the torus. max_chips: in the largest slice. host: chips of one host along each
    dimension; a slice of several hosts is a multiple of it.
    hbm_bytes, hbm_bandwidth (bytes/s), peak_flops (bfloat16, FLOP/s), clock_hz: see the module.
    ici_bandwidth: bytes/s that a chip can send over all its links at once (one direction).
    """

    name: str
    dimensions: int
    max_chips: int
    host: tuple[int, ...]
    hbm_bytes: int
    hbm_bandwidth: float
    peak_flops: float
    ici_bandwidth: float
    clock_hz: float
    config: str  # the name of the chip's mode, as the TPU library calls it
    device_kind: str


TPUS = {
    chip.name: chip
    for chip in (
        TpuChip(
            name="v4",
            dimensions=3,
            max_chips=4096,
            host=(2, 2, 1),
            hbm_bytes=int(30.75 * GIB),
            hbm_bandwidth=1228e9,
            peak_flops=275e12,
            ici_bandwidth=300e9,
            clock_hz=1.05e9,
            config="megacore",
            device_kind="TPU v4",
        ),
        TpuChip(
            name="v5e",
            dimensions=2,
            max_chips=256,
            host=(2, 2),
            hbm_bytes=int(15.75 * GIB),
            hbm_bandwidth=819e9,
            peak_flops=197e12,
            ici_bandwidth=200e9,
            clock_hz=1.5e9,
            config="default",
            device_kind="TPU v5 lite",
        ),
        TpuChip(
            name="v5p",
            dimensions=3,
            max_chips=6144,
            host=(2, 2, 1),
            hbm_bytes=int(95.74 * GIB),
            hbm_bandwidth=2765e9,
            peak_flops=459e12,
            ici_bandwidth=600e9,
            clock_hz=1.75e9,
            config="megacore",
            device_kind="TPU v5",
        ),
        TpuChip(
            name="v6e",
            dimensions=2,
            max_chips=256,
            host=(2, 2),
            hbm_bytes=int(31.25 * GIB),
            hbm_bandwidth=1638e9,
            peak_flops=918e12,
            ici_bandwidth=400e9,
            clock_hz=1.75e9,
            config="default",
            device_kind="TPU v6 lite",
        ),
    )
}

# First words of `device_kind`, the first that fits; bfloat16 FLOP/s (V100: float16).
_GPU_PEAKS = (
    ("NVIDIA GH200", 989e12),
    ("NVIDIA H200", 989e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H100 NVL", 835e12),
    ("NVIDIA H100", 989e12),
    ("NVIDIA A100", 312e12),
    ("NVIDIA L4", 121e12),
    ("Tesla V100", 125e12),
)


def peak_flops(device_kind: str) -> float | None:
    """Peak bfloat16 FLOP/s of a JAX device by its `device_kind`; None where it is not known."""
    for chip in TPUS.values():
        if chip.device_kind == device_kind:
            return chip.peak_flops
    words = re.split(r"[ -]", device_kind)
    for kind, peak in _GPU_PEAKS:
        if words[: len(kind.split())] == kind.split():
            return peak
    return None


def size_text(count: float) -> str:
    """Bytes for a person: "2.85 GiB", "93 MiB"."""
    return f"{count / GIB:.3g} GiB" if count >= GIB else f"{count / 2**20:.3g} MiB"
