"""The GPUs the planner knows, and the one in this machine.

Memory is what ``nvidia-smi`` reports in MiB (H200: 143,771, seen on the machine the planner is checked against; the
others from NVIDIA's data sheets, less the usual reserve). Bandwidth is the data sheet's, in GB/s.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from contract.errors import BuildError

MEMORY_FRACTION = 0.85  # of a GPU's memory that an engine may use; leaves room for CUDA and a desktop
MEMORY_FRACTIONS = (0.1, 0.98)  # the range that may be asked for


@dataclass(frozen=True, slots=True)
class Gpu:
    key: str
    name: str
    sm: int  # compute capability × 10
    memory_mib: int
    bandwidth_gb_s: int

    @property
    def has_fp8(self) -> bool:
        return self.sm >= 89

    @property
    def has_int8_engine(self) -> bool:
        """TensorRT-LLM's builder refuses INT8 SmoothQuant and weight-only on SM100…119 (docs/tensorrt_llm_facts.md)."""
        return 80 <= self.sm < 100


@dataclass(frozen=True, slots=True)
class DetectedGpu:
    """One line of ``nvidia-smi``."""

    gpu: Gpu
    free_mib: int
    driver: str


GPUS = {
    gpu.key: gpu
    for gpu in (
        Gpu("b200", "NVIDIA B200", 100, 183359, 8000),
        Gpu("h200", "NVIDIA H200", 90, 143771, 4800),
        Gpu("h100", "NVIDIA H100 80GB HBM3", 90, 81559, 3350),
        Gpu("h100-pcie", "NVIDIA H100 PCIe", 90, 81559, 2000),
        Gpu("l40s", "NVIDIA L40S", 89, 46068, 864),
        Gpu("l4", "NVIDIA L4", 89, 23034, 300),
        Gpu("4090", "NVIDIA GeForce RTX 4090", 89, 24564, 1008),
        Gpu("a100-80", "NVIDIA A100 80GB", 80, 81920, 2039),
        Gpu("a100-40", "NVIDIA A100 40GB", 80, 40960, 1555),
        Gpu("a10", "NVIDIA A10", 86, 23028, 600),
        Gpu("3090", "NVIDIA GeForce RTX 3090", 86, 24576, 936),
        Gpu("5090", "NVIDIA GeForce RTX 5090", 120, 32607, 1792),
        Gpu("t4", "NVIDIA T4", 75, 15360, 320),
    )
}
ALIASES = {"a100": "a100-80", "h100-80": "h100", "rtx4090": "4090", "rtx3090": "3090", "rtx5090": "5090"}


def by_name(name: str) -> Gpu:
    """``h200``, ``A100-80``, ``rtx4090``, … Raises ``BuildError`` that lists what is known."""
    key = name.strip().lower().replace("_", "-")
    gpu = GPUS.get(ALIASES.get(key, key))
    if gpu is None:
        raise BuildError(f"GPU {name!r} is not known: choose one of {', '.join(GPUS)}")
    return gpu


def parse_smi(text: str) -> list[DetectedGpu]:
    """Lines of ``nvidia-smi --query-gpu=name,memory.total,memory.free,compute_cap,driver_version``."""
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        try:
            name, total, free, capability, driver = (part.strip() for part in line.split(","))
            gpu = identify(name, int(total), round(float(capability) * 10))
        except ValueError as error:
            raise BuildError(f"nvidia-smi answered {line!r}, which is not understood: pass --gpu") from error
        found.append(DetectedGpu(gpu, int(free), driver))
    return found


def identify(name: str, memory_mib: int, sm: int) -> Gpu:
    """The table's bandwidth for a reported name, the machine's own memory and compute capability.

    A GPU that is not in the table gets bandwidth 0: the plan then leaves the decode floor out.
    """
    words = set(re.split(r"[\s-]+", name.lower()))
    best = [known for known in GPUS.values() if known.sm == sm and known.key.split("-")[0] in words]
    best.sort(key=lambda known: (abs(known.memory_mib - memory_mib), ("pcie" in known.key) != ("pcie" in words)))
    key, bandwidth = (best[0].key, best[0].bandwidth_gb_s) if best else (name, 0)
    return Gpu(key, name, sm, memory_mib, bandwidth)


def detect() -> list[DetectedGpu]:
    """The GPUs of this machine; empty without a working ``nvidia-smi``."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = "--query-gpu=name,memory.total,memory.free,compute_cap,driver_version"
    try:
        answer = subprocess.run(
            [tool, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_smi(answer.stdout) if answer.returncode == 0 else []
