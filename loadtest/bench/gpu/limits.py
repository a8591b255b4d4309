"""How far a figure is from what the memory allows: a decoded token reads all weights once per step, and its own KV."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

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
BYTES_PER_WEIGHT = {"bf16": 2.0, "fp8": 1.0}


def copy_bandwidth() -> float:
    """Bytes per second that a device-to-device copy of 4 GiB reads and writes, median of 20."""
    done = subprocess.run([sys.executable, "-c", COPY], capture_output=True, text=True, check=True)
    return float(done.stdout)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that one decode step must read. ``context``: tokens of KV that a stream has on average."""

    config: dict[str, Any]
    precision: str
    kv_bytes: float = 2.0

    @property
    def weights(self) -> float:
        """Linear layers in ``precision``, lm_head in BF16; the embedding table is looked up, not read."""
        c = self.config
        hidden, head = c["hidden_size"], c["hidden_size"] // c["num_attention_heads"]
        attention = 2 * hidden * hidden + 2 * hidden * head * c["num_key_value_heads"]
        linear = c["num_hidden_layers"] * (attention + 3 * hidden * c["intermediate_size"])
        return float(linear * BYTES_PER_WEIGHT[self.precision] + 2.0 * hidden * c["vocab_size"])

    def kv(self, context: float) -> float:
        c = self.config
        head = c["hidden_size"] // c["num_attention_heads"]
        return float(2 * c["num_hidden_layers"] * c["num_key_value_heads"] * head * self.kv_bytes * context)

    def tokens_per_s(self, streams: int, context: float, bandwidth: float) -> float:
        """The most that decoding alone can give at this bandwidth; prefill and arithmetic are not in it."""
        return streams * bandwidth / (self.weights + streams * self.kv(context))
