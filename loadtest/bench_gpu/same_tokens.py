"""Do two ways to the same weights give the same greedy tokens? Through the ensemble, offline, with one GPU or two.

``python -m loadtest.bench_gpu.same_tokens answers --grpc HOST:PORT --tokenizer FILE --out A.json`` asks a server;
``… offline --engine DIR --out B.json`` asks vLLM's ``LLM``; ``… compare A.json B.json`` reports where they part.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from client import AsyncClient, Options
from loadtest.bench_gpu.contenders import Offline, Setup
from loadtest.bench_gpu.prompts import PromptMaker

COUNT, LENGTH, TOKENS, SEED = 16, 96, 64, 7


async def from_server(address: str, texts: list[str]) -> list[list[int]]:
    """One request at a time: the batch's size then cannot change the rounding."""
    chosen = Options(max_tokens=TOKENS, temperature=0.0, repetition_penalty=1.0, ignore_eos=True)
    async with AsyncClient(address) as qwen:
        return [list((await qwen.generate(text, chosen)).choices[0].token_ids) for text in texts]


def from_offline(engine: Path, ids: list[list[int]], kv_gib: int) -> list[list[int]]:
    worker = Offline(Setup(engine, 0, kv_gib << 30, TOKENS, 256, Path("/tmp")), "same-tokens")
    try:
        worker.launch()
        worker.wait()
        return [worker.ask([one], outputs=True)["outputs"][0] for one in ids]
    finally:
        worker.stop()


def compare(left: list[list[int]], right: list[list[int]]) -> dict[str, object]:
    """How many answers are equal, and for each other one the first position that differs."""
    parts = [
        next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), None)  # noqa: B905 (lengths are compared next)
        for one, other in zip(left, right, strict=True)
    ]
    equal = sum(one == other for one, other in zip(left, right, strict=True))
    return {"answers": len(left), "equal": equal, "tokens_each": TOKENS, "first_difference": parts,
            "distinct_tokens": len({token for answer in left for token in answer})}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["answers", "offline", "compare"])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--grpc", default="127.0.0.1:8001")
    parser.add_argument("--engine", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--kv-gib", type=int, default=8)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.what == "compare":
        result = compare(*(json.loads(path.read_text()) for path in args.files))
        print(json.dumps(result))
        return 0 if result["equal"] == result["answers"] else 1
    prompts = PromptMaker(args.tokenizer or args.engine / "tokenizer.json").make(COUNT, LENGTH, SEED)
    if args.what == "answers":
        found = asyncio.run(from_server(args.grpc, prompts.texts))
    else:
        found = from_offline(args.engine, prompts.ids, args.kv_gib)
    args.out.write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
