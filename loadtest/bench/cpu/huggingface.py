"""``transformers.generate`` in BF16, its prompts as one batch: its best case."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from loadtest.bench.cpu.figures import Figures, Workload, measured, report


def measure(model: str, load: Workload) -> list[Figures]:
    """``model`` is a checkpoint directory or a GGUF file, whose weights transformers widens."""
    if load.threads:
        torch.set_num_threads(load.threads)
    path = Path(model)
    source = {"gguf_file": path.name} if path.is_file() else {}
    home = path.parent if path.is_file() else path
    loaded = AutoModelForCausalLM.from_pretrained(home, dtype=torch.bfloat16, **source).eval()
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    ends = {"eos_token_id": list(load.ends) or None}

    def ask(prompts: list[list[int]], tokens: int) -> list[float]:
        """``transformers`` asks after every token whether to stop."""
        ids = torch.tensor(prompts)
        times: list[float] = []
        start = time.perf_counter()

        def note(*_: Any, **__: Any) -> Any:
            times.append(time.perf_counter() - start)
            return torch.zeros(len(ids), dtype=torch.bool)

        size = {"max_new_tokens": tokens, "min_new_tokens": 0 if load.ends else tokens, "pad_token_id": 0}
        masks = {"attention_mask": torch.ones_like(ids), "stopping_criteria": [note]}
        with torch.inference_mode():
            loaded.generate(ids, **masks, **size, **greedy, **ends)
        return times

    return measured(load, ask)


if __name__ == "__main__":
    report(measure)
