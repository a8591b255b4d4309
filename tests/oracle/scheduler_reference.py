"""Our scheduler against vLLM's own: the same requests, the same tokens, everything that both return and keep.

``python -m tests.oracle.scheduler_reference`` with vLLM 0.26 installed, on a GPU or not. Requests arrive, are answered,
stopped, taken back, guided, preempted for want of blocks, and share prompts. Prints as JSON how many steps were
compared and the first that differs.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import vllm.config
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

if not torch.cuda.is_available():
    vllm.platforms._current_platform = CpuPlatform()

from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from contract.paths import ROOT
from serving.runtimes.vllm.scheduler import ShortcutScheduler

BLOCK, MODEL_LENGTH, SEQUENCES, STEP_TOKENS = 16, 512, 24, 256
VOCABULARY, END = 50, 7
KEPT = (  # of a request, after each step
    "status", "num_computed_tokens", "num_in_flight_tokens", "num_output_placeholders", "is_prefill_chunk",
    "next_decode_eligible_step", "num_preemptions", "stop_reason", "spec_token_ids", "block_hashes",
)  # fmt: skip


class Grammars:
    """A guided request is ready at once and its grammar takes every token: only the scheduling is compared."""

    def grammar_init(self, request: Any) -> None:
        request.structured_output_request.grammar = True

    def should_advance(self, request: Any) -> bool:
        return False

    def grammar_bitmask(self, *args: Any) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def scheduler(kind: type[Any], blocks: int, directory: Path) -> Any:
    config = json.loads((ROOT / "build_engine" / "data" / "qwen2.5-7b-instruct.config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config))
    whole = VllmConfig(
        model_config=ModelConfig(
            model=str(directory), skip_tokenizer_init=True, dtype="bfloat16", max_model_len=MODEL_LENGTH, seed=0
        ),
        cache_config=CacheConfig(block_size=BLOCK, enable_prefix_caching=True),
        scheduler_config=SchedulerConfig(
            max_num_seqs=SEQUENCES, max_num_batched_tokens=STEP_TOKENS, max_model_len=MODEL_LENGTH,
            enable_chunked_prefill=True, is_encoder_decoder=False, policy="priority", async_scheduling=True,
        ),
        device_config=DeviceConfig("cpu"),
    )  # fmt: skip
    whole.cache_config.num_gpu_blocks = blocks
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=4, head_size=128, dtype=torch.bfloat16)
    cache = KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)])
    with mock.patch.object(VllmConfig, "use_v2_model_runner", True):  # without a GPU vLLM would choose the other
        return kind(
            vllm_config=whole, kv_cache_config=cache, structured_output_manager=Grammars(), block_size=BLOCK,
            hash_block_size=BLOCK, log_stats=True,
        )  # fmt: skip


class Side:
    """One of the two schedulers with the steps that are under way."""

    def __init__(self, kind: type[Any], blocks: int, directory: Path) -> None:
        self.scheduler = scheduler(kind, blocks, directory)
        self.hasher = get_request_block_hasher(BLOCK, sha256)
        self.steps: deque[tuple[Any, ModelRunnerOutput]] = deque()

    def add(self, of: dict[str, Any]) -> None:
        guided = StructuredOutputsParams(json_object=True) if of["guided"] else None
        params = SamplingParams(
            max_tokens=of["max_tokens"], min_tokens=of["min_tokens"], stop_token_ids=of["stops"], ignore_eos=True,
            structured_outputs=guided, detokenize=False,
        )  # fmt: skip
        request = Request(
            of["id"], list(of["prompt"]), params, None, arrival_time=of["arrival"], priority=of["priority"],
            block_hasher=self.hasher,
        )  # fmt: skip
        if guided:
            request.structured_output_request.grammar = True
            request.status = RequestStatus.WAITING
        self.scheduler.add_request(request)

    def step(self, tokens: dict[tuple[str, int], int]) -> tuple[Any, Any]:
        """What was scheduled, and what came out of the step before it."""
        scheduled = self.scheduler.schedule()
        ids = list(scheduled.num_scheduled_tokens)
        sampled = []
        for request_id in ids:
            request = self.scheduler.requests[request_id]
            position = request.num_computed_tokens
            sampled.append([] if request.is_prefill_chunk else [tokens.setdefault((request_id, position), _token())])
        output = ModelRunnerOutput(ids, {name: at for at, name in enumerate(ids)}, sampled, None, {}, None)
        seen = _plain(scheduled)  # before the next step changes what it refers to
        if ids:
            self.steps.append((scheduled, output))
        out = None
        if len(self.steps) == 2 or (self.steps and not ids):
            out = _plain(self.scheduler.update_from_output(*self.steps.popleft()))
        return seen, out

    def state(self) -> Any:
        cache = self.scheduler.kv_cache_manager
        manager = cache.coordinator.single_type_managers[0]
        requests = {
            name: [getattr(request, field) for field in KEPT] + [list(request._all_token_ids)]
            for name, request in self.scheduler.requests.items()
        }
        return _plain([
            requests, [r.request_id for r in self.scheduler.running], len(self.scheduler.waiting),
            {name: [block.block_id for block in blocks] for name, blocks in manager.req_to_blocks.items() if blocks},
            dict(manager.num_cached_block), cache.block_pool.get_num_free_blocks(),
            sorted(request.request_id for request in self.scheduler._inflight_prefills),
        ])  # fmt: skip


_random = random.Random()


def _token() -> int:
    return _random.randrange(VOCABULARY)


def _plain(value: Any) -> Any:
    """As JSON would have it, without times."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "__struct_fields__"):
        return {
            name: _plain(getattr(value, name))
            for name in value.__struct_fields__
            if name not in ("timestamp", "events", "scheduler_stats", "prefill_stats")
        }
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, deque)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return value if isinstance(value, (int, float, bool, type(None))) else str(value)


def compare(seed: int, blocks: int, steps: int, directory: Path) -> tuple[int, str, set[str]]:
    """Steps compared, what differs, and what happened on the way."""
    _random.seed(seed)
    chance = random.Random(seed)
    theirs, ours = Side(AsyncScheduler, blocks, directory), Side(ShortcutScheduler, blocks, directory)
    assert ours.scheduler._plain
    happened: set[str] = set()
    shared = [chance.randrange(VOCABULARY) for _ in range(80)]
    tokens: dict[tuple[str, int], int] = {}
    for number in range(steps):
        if chance.random() < 0.4 and number < steps * 0.8:
            own = [chance.randrange(VOCABULARY) for _ in range(chance.randrange(1, 300))]
            most = chance.choice((1, 2, 17, 40, 400))
            of = {
                "id": f"r{number}", "arrival": time.time(), "priority": chance.choice((0, 0, 0, -1)),
                "prompt": shared[: chance.randrange(81)] + own, "max_tokens": most,
                "min_tokens": min(most, chance.choice((0, 0, 5))), "stops": chance.choice(([], [], [END], [END, 3])),
                "guided": chance.random() < 0.1,
            }  # fmt: skip
            for side in (theirs, ours):
                side.add(of)
        if chance.random() < 0.05 and theirs.scheduler.requests:
            gone = chance.choice(sorted(theirs.scheduler.requests))
            happened.add("taken back")
            for side in (theirs, ours):
                side.scheduler.finish_requests(gone, RequestStatus.FINISHED_ABORTED)
        (want, want_out), (got, got_out) = theirs.step(tokens), ours.step(tokens)
        for name, one, other in (
            ("scheduled", want, got), ("outputs", want_out, got_out), ("state", theirs.state(), ours.state())
        ):  # fmt: skip
            if one != other:
                return number, f"seed {seed}, step {number}: {name}: {one} != {other}", happened
        happened |= {f"{key}" for key in ("preempted_req_ids", "scheduled_new_reqs", "finished_req_ids") if want[key]}
        happened |= {"guided"} if want["has_structured_output_requests"] else set()
        for out in (want_out or {}).values():
            happened |= {
                f"finish {item['finish_reason']}" for item in out["outputs"] if item["finish_reason"] is not None
            }
    return steps, "", happened


def main() -> int:
    init_none_hash(sha256)
    happened: set[str] = set()
    compared, differing = 0, ""
    with tempfile.TemporaryDirectory() as directory:
        for seed in range(12):
            steps, differing, seen = compare(seed, (60, 200, 4000)[seed % 3], 400, Path(directory))
            compared, happened = compared + steps, happened | seen
            if differing:
                break
    print(json.dumps({"steps": compared, "differing": differing[:2000], "happened": sorted(happened)}))
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
