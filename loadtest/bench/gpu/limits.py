"""How far a figure is from what the memory allows: a decoded token reads all weights once per step, and its own KV."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

from contract.model_shape import ModelShape

COPY = """
import torch
a = torch.empty(4 << 30, dtype=torch.uint8, device="cuda"); b = torch.empty_like(a)
for _ in range(3): b.copy_(a)
times = []
for _ in range(20):
    s, e = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    s.record(); b.copy_(a); e.record(); torch.cuda.synchronize(); times.append(s.elapsed_time(e))
print(2 * a.numel() / (sorted(times)[10] / 1e3))
"""


def copy_bandwidth() -> float:
    """Bytes per second that a device-to-device copy of 4 GiB reads and writes, median of 20."""
    done = subprocess.run([sys.executable, "-c", COPY], capture_output=True, text=True, check=True)
    return float(done.stdout)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that one decode step must read. ``context``: tokens of KV that a stream has on average."""

    shape: ModelShape
    precision: str
    kv_dtype: str = "bf16"

    @property
    def weights(self) -> int:
        return self.shape.decode_bytes(self.precision)

    def kv(self, context: float) -> float:
        return self.shape.kv_bytes_per_token(self.kv_dtype) * context

    def tokens_per_s(self, streams: int, context: float, bandwidth: float) -> float:
        """The most that decoding alone can give at this bandwidth; prefill and arithmetic are not in it."""
        return streams * bandwidth / (self.weights + streams * self.kv(context))
