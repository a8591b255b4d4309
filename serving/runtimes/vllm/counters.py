"""Running totals of what the engine core's messages report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving.runtimes.base import RuntimeStats, SequenceDelta


@dataclass(slots=True)
class Counters:
    """Totals since the start, and the scheduler's newest figures."""

    blocks: int
    block_tokens: int
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0
    scheduler: Any = None  # the newest SchedulerStats

    def begin(self, prefill: Any) -> None:
        self.prompt_tokens += prefill.num_prompt_tokens
        self.cached_tokens += prefill.num_cached_tokens

    def add(self, scheduler: Any, deltas: list[SequenceDelta]) -> None:
        self.generated_tokens += sum(delta.counted for delta in deltas)
        if scheduler is not None:
            self.steps += 1
            self.scheduler = scheduler
            if scheduler.spec_decoding_stats is not None:
                self.drafted_tokens += scheduler.spec_decoding_stats.num_draft_tokens
                self.accepted_tokens += scheduler.spec_decoding_stats.num_accepted_tokens

    def snapshot(self) -> RuntimeStats:
        now = self.scheduler
        return RuntimeStats(
            running=now.num_running_reqs if now else 0,
            waiting=now.num_waiting_reqs + now.num_skipped_waiting_reqs if now else 0,
            kv_blocks_used=round(now.kv_cache_usage * self.blocks) if now else 0,
            kv_blocks_total=self.blocks,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            generated_tokens=self.generated_tokens,
            steps=self.steps,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
            preemptions=self.preemptions,
            kv_block_tokens=self.block_tokens,
        )
