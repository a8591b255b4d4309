"""A stand-in for vLLM's engine core: its message classes by shape, a queue, and a log of what it was told."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contract.engine_dir import EngineInfo, EngineLimits, ModelInfo, RuntimeInfo
from contract.errors import InvalidRequest
from serving.runtimes.base import EngineRequest

STOP, LENGTH, ABORT, ERROR = range(4)


def engine(path: Path, precision: str = "bf16", **changes: Any) -> EngineInfo:
    (path / "config.json").write_text('{"eos_token_id": 2}')
    values: dict[str, Any] = {
        "model": ModelInfo("m", "m", vocab_size=100),
        "runtime": RuntimeInfo("vllm"),
        "precision": precision,
        "kv_dtype": "bf16",
        "limits": EngineLimits(64, 63),
        "path": path,
    }
    return EngineInfo(**(values | changes))


@dataclass
class Prefill:
    num_prompt_tokens: int
    num_cached_tokens: int = 0


@dataclass
class Scheduler:
    num_running_reqs: int = 0
    num_waiting_reqs: int = 0
    num_skipped_waiting_reqs: int = 0
    kv_cache_usage: float = 0.0
    spec_decoding_stats: Any = None


@dataclass
class Output:
    request_id: str
    new_token_ids: list[int]
    finish_reason: int | None = None
    new_logprobs: Any = None
    prefill_stats: Prefill | None = None
    new_prompt_logprobs_tensors: Any = None
    events: Any = None


@dataclass
class Outputs:
    outputs: list[Output]
    scheduler_stats: Scheduler | None = None


@dataclass
class FakeCore:
    """``serving.runtimes.vllm.core.Core`` without vLLM; tests put ``Outputs`` into ``outputs`` themselves."""

    max_model_len: int = 64
    vocab_size: int = 100
    kv_blocks: int = 200
    kv_block_tokens: int = 16
    dead: bool = False
    lacking: frozenset[str] = frozenset()
    outputs: queue.Queue[Any] = field(default_factory=queue.Queue)
    sent: list[str] = field(default_factory=list)
    requests: list[EngineRequest] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    shutdowns: int = 0
    broken: bool = False
    compiling: threading.Event = field(default_factory=threading.Event)  # while clear, the grammar "slow" compiles

    def prepare(self, request_id: str, request: EngineRequest) -> tuple[str, frozenset[int]]:
        if request.sampling.guide and request.sampling.guide.guide == "slow":
            assert self.compiling.wait(10)
        elif request.sampling.guide:
            raise InvalidRequest("guided_decoding_guide", "does not compile")
        self.requests.append(request)
        return request_id, frozenset(request.sampling.stop_token_ids)

    def send(self, prepared: str) -> None:
        if self.broken:
            raise RuntimeError("socket is gone")
        self.sent.append(prepared)

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        self.outputs.put(Outputs([Output(request_id, [], ABORT)]))

    def shutdown(self) -> None:
        self.shutdowns += 1
