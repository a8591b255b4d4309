"""What ``transformers`` says: greedy tokens of a checkpoint, written as JSON for the tests that compare with it.

    .venv-oracle/bin/python -m tests.oracle.expected --engine-source DIR --out expected.json

``--engine-source`` is the checkpoint an engine was built from. Needs torch; everything else in the project does not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

PROMPTS = 20
TOKENS = 64
SEED = 7


def prompts(vocab_size: int, count: int = PROMPTS) -> list[list[int]]:
    """Random prompts of 5 to 200 tokens; some share a prefix, so that the prefix cache is part of what is tested."""
    rng = np.random.default_rng(SEED)
    top = min(vocab_size, 151643)
    shared = rng.integers(0, top, 100).tolist()
    return [
        shared[: rng.integers(0, 101)] * (i % 2) + rng.integers(0, top, rng.integers(5, 100)).tolist()
        for i in range(count)
    ]


def load(checkpoint: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="sdpa").eval()


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """``generate`` with nothing but greedy search; end tokens do not end it."""
    import torch

    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False,
            temperature=None, top_p=None, top_k=None, repetition_penalty=1.0, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    return [int(token) for token in out[0, len(prompt) :]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine-source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    args = parser.parse_args()
    model = load(args.engine_source)
    asked = prompts(model.config.vocab_size)
    answers = [greedy(model, prompt, args.tokens) for prompt in asked]
    args.out.write_text(json.dumps({"source": str(args.engine_source), "prompts": asked, "expected": answers}))
    print(f"{args.out}: {len(asked)} prompts x {args.tokens} tokens")


if __name__ == "__main__":
    main()
