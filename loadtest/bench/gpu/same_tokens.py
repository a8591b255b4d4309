"""Do two ways to the same weights give the same greedy tokens? Through the ensemble, offline, with one GPU or two.

``python -m loadtest.bench.gpu.same_tokens answers --grpc HOST:PORT --tokenizer FILE --out A.json`` asks a server;
``… offline --engine DIR --out B.json`` asks vLLM's ``LLM``; ``… compare A.json B.json`` reports where they part, and
how sure A was there: two sums of the same BF16 numbers in another order (two GPUs add their halves) differ in the last
bits, and where the two likeliest tokens are closer than that, greedy decoding takes the other one.
"""

from __future__ import annotations

import contract.program

import asyncio
import json
import statistics
import sys
from pathlib import Path
from typing import TypedDict

from client import AsyncClient, Options
from loadtest.arguments import Arguments, count
from loadtest.bench.gpu.contenders import Offline, Setup
from loadtest.bench.gpu.prompts import PromptMaker

COUNT, LENGTH, TOKENS, SEED = 16, 96, 64, 7


class GreedyAnswer(TypedDict):
    """``margins``: natural log of how much likelier the chosen token was than the next one; empty if not asked."""

    ids: list[int]
    margins: list[float]


async def from_server(address: str, texts: list[str]) -> list[GreedyAnswer]:
    """One request at a time: the batch's size then cannot change the rounding."""
    chosen = Options(
        max_tokens=TOKENS, temperature=0.0, repetition_penalty=1.0, ignore_eos=True, logprobs=True, top_logprobs=2
    )
    async with AsyncClient(address) as qwen:
        choices = [(await qwen.generate(text, chosen)).choices[0] for text in texts]
    return [
        GreedyAnswer(ids=list(c.token_ids), margins=[top[0][1] - top[1][1] for top in c.top_logprobs]) for c in choices
    ]


def from_offline(engine: Path, ids: list[list[int]], kv_gib: int) -> list[GreedyAnswer]:
    worker = Offline(Setup(engine, 0, kv_gib << 30, TOKENS, 256, Path("/tmp")), "same-tokens")
    try:
        worker.launch()
        worker.wait()
        return [GreedyAnswer(ids=worker.ask([one], outputs=True)["outputs"][0], margins=[]) for one in ids]
    finally:
        worker.stop()


def compare(left: list[GreedyAnswer], right: list[GreedyAnswer]) -> dict[str, object]:
    """How many answers are equal; for each other one the first position that differs and the margin there."""
    pairs = [(one["ids"], other["ids"]) for one, other in zip(left, right, strict=True)]
    parts = [next((i for i, (a, b) in enumerate(zip(*pair, strict=False)) if a != b), None) for pair in pairs]
    margins = [margin for answer in left for margin in answer["margins"]]
    there = [a["margins"][i] for a, i in zip(left, parts, strict=True) if i is not None and i < len(a["margins"])]
    return {
        "answers": len(left), "equal": sum(a == b for a, b in pairs), "tokens_each": TOKENS, "first_difference": parts,
        "distinct_tokens": len({token for ids, _ in pairs for token in ids}),
        "median_margin": round(statistics.median(margins), 4) if margins else None,
        "margins_at_difference": [round(margin, 4) for margin in there],
    }  # fmt: skip


def main() -> int:
    parser = Arguments(prog="python -m loadtest.bench.gpu.same_tokens", description=__doc__)
    parser.add_argument("what", choices=["answers", "offline", "compare"])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--grpc", default="127.0.0.1:8001")
    parser.add_argument("--engine", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--kv-gib", type=count, default=8)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.what == "compare":
        if len(args.files) != 2:
            parser.error(f"compare needs two files of answers; got {len(args.files)}")
        result = compare(*(json.loads(path.read_text()) for path in args.files))
        print(json.dumps(result))
        return 0 if result["equal"] == result["answers"] else 1
    if not args.out or not (args.engine or (args.what == "answers" and args.tokenizer)):
        parser.error(f"{args.what} needs --out, and --engine{' or --tokenizer' if args.what == 'answers' else ''}")
    prompts = PromptMaker(args.tokenizer or args.engine / "tokenizer.json").make(COUNT, LENGTH, SEED)
    if args.what == "answers":
        found = asyncio.run(from_server(args.grpc, prompts.texts))
    else:
        found = from_offline(args.engine, prompts.ids, args.kv_gib)
    args.out.write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
