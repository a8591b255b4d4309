"""What fused attention is worth: the time in which ``transformers`` reads one long prompt, on a GPU.

    python -m loadtest.bench.strategies.prefill --model DIR --attention eager --prompt 8192

Prints one JSON line with the median of three. Eager attention writes heads × prompt × prompt scores to memory.
"""

from __future__ import annotations

import contract.program

import json
import statistics
import time

from loadtest.arguments import Arguments, count
from loadtest.bench.strategies import reference


def main() -> None:
    parser = Arguments(prog="python -m loadtest.bench.strategies.prefill", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--attention", choices=["eager", "sdpa"], required=True)
    parser.add_argument("--prompt", type=count, default=8192)
    args = parser.parse_args()
    print(json.dumps({"seconds": measure(args.model, args.attention, args.prompt)}))


def measure(directory: str, attention: str, prompt: int) -> float:
    import torch

    model, device = reference.load(directory, dtype=torch.bfloat16, attn_implementation=attention)
    ids = torch.randint(0, model.config.vocab_size, (1, prompt), device=device)
    seconds = []
    for _ in range(4):  # the first compiles kernels
        started = time.perf_counter()
        with torch.inference_mode():
            model(ids, logits_to_keep=1).logits.float().sum().item()  # waits for the GPU
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
