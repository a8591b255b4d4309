"""Chunked prefill, on and off, in the CPU engine: what a long prompt does to the streams that are being answered.

    python -m loadtest.bench.strategies.chunked --engine DIR --step-tokens 128

Four streams decode; then a long prompt arrives. Prints one JSON line: the longest gap the four saw, and the TTFT of
the long prompt. The engine runs in this process, because the server offers no option to turn chunking off.
"""

from __future__ import annotations

import contract.program

import json
import time
from pathlib import Path

from contract.errors import EngineDirectoryError
from loadtest.arguments import Arguments, count
from loadtest.bench.strategies.prompts import token_ids
from loadtest.errors import EXIT_USAGE

STREAMS = 4
SHORT = 32  # tokens of the prompts of those streams
DECODE = 400  # more tokens than the prompt needs steps
KV_BYTES = 256 << 20


def main() -> None:
    parser = Arguments(prog="python -m loadtest.bench.strategies.chunked", description=__doc__)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--step-tokens", type=count, required=True)
    parser.add_argument("--prompt", type=count, default=512)
    args = parser.parse_args()
    try:
        print(json.dumps(measure(Path(args.engine), args.step_tokens, args.prompt)))
    except EngineDirectoryError as error:
        parser.exit(EXIT_USAGE, f"{parser.prog}: {error}\n")


def measure(directory: Path, step_tokens: int, prompt: int) -> dict[str, float]:
    from contract import engine_dir
    from contract.sampling import Sampling
    from serving.runtimes.base import EngineRequest
    from serving.runtimes.openvino.blocks import BlockPool
    from serving.runtimes.openvino.engine import Engine
    from serving.runtimes.openvino.model import PagedModel

    info = engine_dir.read(directory)
    model = PagedModel(directory / "openvino_model.xml", info.precision, 0)
    blocks = KV_BYTES // model.block_bytes
    model.allocate(blocks)
    engine = Engine(model, BlockPool(blocks), 16, info.limits.max_seq_len, step_tokens=step_tokens)
    *short, long = token_ids(directory, [SHORT] * STREAMS + [prompt])

    def submit(number: int, ids: list[int], tokens: int) -> None:
        engine.submit(EngineRequest(number, ids, Sampling(tokens, temperature=0.0, ignore_eos=True)))

    for number, ids in enumerate(short):
        submit(number, ids, DECODE)
    for _ in range(STREAMS * 4 + 8):
        engine.step()
    submit(99, long, 2)
    start = last = time.perf_counter()
    longest = 0.0
    while True:
        deltas = engine.step()
        now = time.perf_counter()
        if any(d.sequence_id < STREAMS for d in deltas):
            longest, last = max(longest, now - last), now
        if any(d.sequence_id == 99 for d in deltas):
            return {"longest_gap_s": max(longest, now - last), "ttft_s": now - start}


if __name__ == "__main__":
    main()
