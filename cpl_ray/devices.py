"""Accelerators by name: memory and dense peak rates, as their vendors' data sheets state them."""

import difflib
from dataclasses import dataclass
from typing import Literal

from cpl_ray.errors import ConfigError

GIB = 1 << 30
Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Device:
    """One kind of accelerator."""

    name: str
    memory_bytes: int
    """Nominal; what a vendor calls GB is taken as 2**30 bytes, as its tools show it but for what ECC takes."""
    float32_tflops: float
    """Plain float32, no TensorFloat-32: PyTorch leaves that off unless asked."""
    bfloat16_tflops: float | None
    """Dense, accumulated in float32; None: the hardware has no bfloat16 units."""

    def peak(self, dtype: Dtype) -> float:
        """Return the peak rate in FLOP/s; without bfloat16 units that of float32, by which it is emulated."""
        fast = self.bfloat16_tflops if dtype == "bfloat16" else None
        return (self.float32_tflops if fast is None else fast) * 1e12


def _device(name: str, gib: int, float32: float, bfloat16: float | None) -> Device:
    return Device(name, gib * GIB, float32, bfloat16)


DEVICES = {
    device.name: device
    for device in (
        _device("A10", 24, 31.2, 125.0),
        _device("A30", 24, 10.3, 165.0),
        _device("A100-40GB", 40, 19.5, 312.0),
        _device("A100-80GB", 80, 19.5, 312.0),
        _device("H100-PCIe-80GB", 80, 51.0, 756.0),
        _device("H100-80GB", 80, 67.0, 989.0),
        _device("H200", 141, 67.0, 989.0),
        _device("L4", 24, 30.3, 121.0),
        _device("L40S", 48, 91.6, 362.0),
        _device("T4", 16, 8.1, None),
        _device("V100-16GB", 16, 15.7, None),
        _device("V100-32GB", 32, 15.7, None),
        _device("RTX-3090", 24, 35.6, 71.0),
        _device("RTX-4090", 24, 82.6, 165.2),
        _device("MI300X", 192, 163.4, 1307.4),
    )
}
CPU = "cpu"


def find_device(name: str) -> Device | None:
    """Return the accelerator of this name, whatever its case, blanks and underscores; None for `cpu`.

    Raises:
        ConfigError: there is no such name; says the nearest and all valid ones.
    """
    known = {_plain(device): device for device in (*DEVICES, CPU)}
    found = known.get(_plain(name))
    if found is None:
        near = difflib.get_close_matches(_plain(name), known, n=1, cutoff=0.3)
        hint = f"did you mean {known[near[0]]}? " if near else ""
        raise ConfigError(f"--gpu {name!r} is unknown; {hint}Valid are {', '.join((*DEVICES, CPU))}")
    return DEVICES.get(found)


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "-").replace("_", "-")
