"""openvino-genai's ContinuousBatchingPipeline on the same engine directory, with its own settings."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai

from loadtest.bench.cpu.figures import Figures, Workload, measured, report

BLOCK_TOKENS = 32


def measure(model: str, load: Workload) -> list[Figures]:
    """``model`` is an engine directory: its IR and config are what the pipeline reads."""
    scheduling = openvino_genai.SchedulerConfig()
    longest = max([load.length + load.tokens, *(len(ids) + tokens for ids, tokens in load.texts)])
    blocks = -(-longest // BLOCK_TOKENS) + 1
    scheduling.num_kv_blocks = max(load.streams) * blocks + 1
    scheduling.enable_prefix_caching = False
    settings = {"INFERENCE_NUM_THREADS": load.threads} if load.threads else {}
    pipeline = openvino_genai.ContinuousBatchingPipeline(model, scheduling, "CPU", settings)
    numbers = iter(range(1 << 20))

    def ask(prompts: list[list[int]], tokens: int) -> list[float]:
        config = openvino_genai.GenerationConfig(max_new_tokens=tokens, ignore_eos=not load.ends)
        config.stop_token_ids = set(load.ends)
        start = time.perf_counter()
        ids = [ov.Tensor(np.array([prompt], np.int64)) for prompt in prompts]
        handles: list[Any] = [pipeline.add_request(next(numbers), each, config) for each in ids]
        arrived: list[list[float]] = [[] for _ in handles]
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for times, handle in zip(arrived, handles, strict=True):
                while handle.can_read():
                    count = sum(len(output.generated_ids) for output in handle.read().values())
                    times += [time.perf_counter() - start] * count
        return [max(times) for times in zip(*arrived, strict=True)]

    return measured(load, ask)


if __name__ == "__main__":
    report(measure)
