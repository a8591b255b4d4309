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
from tokenizers import Tokenizer

PROMPTS = 20
TOKENS = 64
SEED = 7
SENTENCES = (
    "Streaming sends every token as soon as it is there.", "你好，世界！今天天气不错。", "مرحبا بالعالم، كيف حالك؟",
    "def add(a, b):\n\treturn a + b  # 加法\n", "Где находится библиотека?", "東京は今日も雨です。", "12345 + 678 = ?",
    "The quick brown fox jumps over the lazy dog,", "¿Cuánto cuesta?", "👩‍👩‍👧‍👦🎉 emoji 🇨🇳",
    "In-flight batching keeps the engine busy while prompts of any length come and go.", "हिन्दी में लिखो।",
)  # fmt: skip


def texts(count: int = PROMPTS) -> list[str]:
    """Prompts of about 5 to 250 tokens in several scripts; half share a beginning, for the prefix cache."""
    rng = np.random.default_rng(SEED)
    shared = " ".join(SENTENCES)
    made = []
    for number in range(count):
        words = [SENTENCES[i] for i in rng.permutation(len(SENTENCES))[: rng.integers(1, len(SENTENCES))]]
        made.append((shared[: rng.integers(40, 400)] + "\n" if number % 2 else "") + " ".join(words) + f" {number}")
    return made


def prompts(checkpoint: Path) -> list[list[int]]:
    """``texts`` as token ids of the checkpoint's tokenizer."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts()]


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
    asked = prompts(args.engine_source)
    answers = [greedy(model, prompt, args.tokens) for prompt in asked]
    data = {"source": str(args.engine_source), "texts": texts(), "prompts": asked, "expected": answers}
    args.out.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    print(f"{args.out}: {len(asked)} prompts x {args.tokens} tokens")


if __name__ == "__main__":
    main()
