"""What the Triton models read from their environment. The launcher sets it; nothing else does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from contract import ack_table
from contract.gpus import MEMORY_FRACTION
from serving.runtimes.base import RuntimeOptions

DEFAULT_QUEUE_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class StepSettings:
    """One process's configuration, read once at start."""

    engine_dir: Path
    run_dir: Path
    queue_limit: int
    step_seconds: float  # without a step an engine with work is dead; 0: serving.triton.stall knows
    runtime: RuntimeOptions

    @classmethod
    def from_environment(cls) -> StepSettings:
        get = os.environ.get
        gigabytes = float(get("KV_CACHE_GB") or 0)
        return cls(
            Path(os.environ["ENGINE_DIR"]),
            Path(os.environ["RUN_DIR"]),
            int(get("QUEUE_LIMIT") or DEFAULT_QUEUE_LIMIT),
            float(get("STEP_SECONDS") or 0),
            RuntimeOptions(
                max_streams=int(get("MAX_STREAMS") or 256),
                kv_cache_bytes=int(gigabytes * 2**30) or None,
                gpu_memory_fraction=float(get("GPU_MEMORY_FRACTION") or MEMORY_FRACTION),
                step_ms=float(get("STEP_MS") or 15),
                prefill_ms_per_token=float(get("PREFILL_MS_PER_TOKEN") or 0),
                fault=get("FAULT", ""),
                threads=int(get("THREADS") or 0),
                exact=bool(int(get("EXACT") or 0)),
            ),
        )

    @property
    def ack_table(self) -> Path:
        return self.run_dir / ack_table.FILE_NAME

    @property
    def slots(self) -> int:
        """One per sequence that may run or wait, and as many again, so that a slot rests before it is reused."""
        return 2 * (self.queue_limit + self.runtime.max_streams)
