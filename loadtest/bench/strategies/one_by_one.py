"""The baseline: ``transformers.generate``, one request at a time. Runs where torch is installed.

    .venv-oracle/bin/python -m loadtest.bench.strategies.one_by_one --model DIR --engine DIR --dtype bfloat16

``--engine`` is an engine of the same model: its tokenizer makes the prompts. Prints one JSON line: tokens per second,
and the wait of each of eight users who sent their requests at the same time.
"""

from __future__ import annotations

import contract.program

import argparse
import json
import time
from pathlib import Path
from typing import Any

from loadtest.arguments import Arguments, count
from loadtest.bench.strategies import reference
from loadtest.bench.strategies.prompts import token_ids


def main() -> None:
    parser = Arguments(prog="python -m loadtest.bench.strategies.one_by_one", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--prompt", type=count, default=64)
    parser.add_argument("--tokens", type=count, default=48)
    parser.add_argument("--users", type=count, default=8)
    args = parser.parse_args()
    print(json.dumps(measure(args)))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    model, device = reference.load(args.model, dtype=getattr(torch, args.dtype))
    prompts = torch.tensor(token_ids(Path(args.engine), [args.prompt] * args.users), device=device)

    def answer(k: int, tokens: int) -> None:
        ids = prompts[k : k + 1]
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                do_sample=False, pad_token_id=0,
            )  # fmt: skip

    answer(0, 2)  # the first call compiles kernels
    start = time.perf_counter()
    waits = []
    for k in range(args.users):
        answer(k, args.tokens)
        waits.append(time.perf_counter() - start)
    return {"tokens_per_s": args.users * args.tokens / waits[-1], "waits_s": waits, "device": device}


if __name__ == "__main__":
    main()
