"""A worker with one offline engine that answers JSON lines: {"ids", "tokens", "sampling"} -> {"seconds", "tokens"}.

``python -m loadtest.bench.gpu.offline vllm|transformers ENGINE_DIR KV_BYTES``. It runs in a process of its own,
because neither library gives its GPU memory back while it is loaded.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

MAX_STREAMS = 256


class VllmWorker:
    """``LLM.generate`` on the very arguments that our runtime gives vLLM."""

    def __init__(self, engine: Path, kv_bytes: int) -> None:
        from contract import engine_dir
        from serving.runtimes.base import RuntimeOptions
        from serving.runtimes.vllm import args as vllm_args
        from serving.runtimes.vllm.runtime import set_environment

        info = engine_dir.read(engine)
        set_environment(info)
        from vllm import LLM

        options = RuntimeOptions(max_streams=MAX_STREAMS, kv_cache_bytes=kv_bytes or None)
        self._llm = LLM(**vllm_args.engine_args(info, options))

    def generate(self, prompts: list[list[int]], tokens: int, sampling: dict[str, Any]) -> list[list[int]]:
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=tokens, ignore_eos=True, detokenize=False, **sampling)
        outputs = self._llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]


class TransformersWorker:
    """``model.generate`` on one batch, in BF16."""

    def __init__(self, engine: Path, kv_bytes: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self._model = AutoModelForCausalLM.from_pretrained(engine, dtype=torch.bfloat16).to("cuda").eval()

    def generate(self, prompts: list[list[int]], tokens: int, sampling: dict[str, Any]) -> list[list[int]]:
        ids = self._torch.tensor(prompts, device="cuda")
        with self._torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=self._torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=bool(sampling["temperature"]),
                **({} if sampling["temperature"] == 0 else sampling),
            )
        return [row[ids.shape[1] :].tolist() for row in out]


def claim_stdout() -> TextIO:
    """Standard output for the answers alone: what libraries and their child processes print goes to standard error."""
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return reply


def answer(engine: Any, command: dict[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    outputs = engine.generate(command["ids"], command["tokens"], command["sampling"])
    seconds = time.perf_counter() - started
    made = sum(map(len, outputs))
    return {"seconds": seconds, "tokens": made, "outputs": outputs if command.get("outputs") else None}


def main() -> None:
    kind, engine, kv_bytes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    reply = claim_stdout()
    worker = {"vllm": VllmWorker, "transformers": TransformersWorker}[kind](engine, kv_bytes)
    print(json.dumps({"ready": True}), file=reply, flush=True)
    for line in iter(sys.stdin.readline, ""):
        print(json.dumps(answer(worker, json.loads(line))), file=reply, flush=True)


if __name__ == "__main__":
    main()
