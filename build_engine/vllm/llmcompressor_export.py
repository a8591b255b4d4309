"""BF16 checkpoint -> INT8 W8A8 checkpoint (compressed-tensors), for vLLM. Needs llmcompressor 0.12 and nothing of ours.

Weights INT8 per channel, activations INT8 per token at run time, lm_head left alone. SmoothQuant (strength 0.8) moves
the activations' outliers into the weights first, GPTQ then rounds them: llm-compressor's own recipe for dense models.
It runs by path in an environment of its own, because llmcompressor's pins of transformers exclude vLLM's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

SMOOTHING = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--calibration", type=Path, required=True, help="JSON lines with a `text` column, chat-templated"
    )
    parser.add_argument("--size", type=int, default=256, help="prompts used (default %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=2048, help="tokens used of each (default %(default)s)")
    args = parser.parse_args()

    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="auto", device_map="auto")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    lines = [line for line in args.calibration.read_text(encoding="utf-8").split("\n") if line][: args.size]
    encoded = [
        tokenizer(json.loads(line)["text"], truncation=True, max_length=args.max_tokens, add_special_tokens=False)
        for line in lines
    ]
    oneshot(
        model=model,
        dataset=Dataset.from_list([dict(row) for row in encoded]),
        recipe=[
            SmoothQuantModifier(smoothing_strength=SMOOTHING),
            GPTQModifier(targets="Linear", scheme="W8A8", ignore=["lm_head"]),
        ],
        max_seq_length=args.max_tokens,
        num_calibration_samples=len(encoded),
    )
    model.save_pretrained(args.output, save_compressed=True)


if __name__ == "__main__":
    main()
