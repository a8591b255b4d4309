"""``make bench-cpu``: the CPU engine against ``transformers.generate`` on one checkpoint, in one run.

Every measurement is a fresh process; the engines take turns, round after round, so that other load on the machine falls
on all of them. Greedy, equal prompt lengths, end tokens ignored, one warm-up request. The engine is measured as it is
served: through its runtime, worker process and all. ``transformers`` gets its prompts as one batch, its best case.
Runs in the environment that has torch (``.venv-oracle``); writes ``results/bench_cpu.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from build_engine.openvino import build as openvino_build
from build_engine.spec import SYNTHETIC, BuildSpec
from build_engine.staging import cache_directory
from build_engine.synthetic import checkpoint as synthetic
from loadtest.arguments import Arguments, count
from loadtest.bench import result

SUBJECTS = ("openvino-int8", "transformers-bf16", "transformers-fp32")
STREAMS = (1, 8)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one request batch: seconds to the first token (the slowest stream), and tokens/s summed over the streams.

    ``decode`` counts from the first token on, ``total`` from the start."""

    streams: int
    ttft: float
    decode: float
    total: float


def figures(streams: int, tokens: int, first: float, last: float) -> Figures:
    return Figures(streams, first, streams * (tokens - 1) / (last - first), streams * tokens / last)


def prompts(streams: int, length: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng([seed, streams])
    return [rng.integers(0, 150_000, length).tolist() for _ in range(streams)]


def measure_openvino(model: str, length: int, tokens: int) -> list[Figures]:
    from contract import engine_dir
    from contract.sampling import Sampling
    from serving import runtimes
    from serving.runtimes.base import EngineRequest, RuntimeOptions

    out = cache_directory() / "bench" / f"{Path(model).name}-int8"
    engine = engine_dir.read(openvino_build.build(BuildSpec(model, "int8", "openvino", out)))
    arrived: dict[int, list[float]] = {}
    changed = threading.Condition()

    def on_step(deltas: Sequence[Any]) -> None:
        with changed:
            for delta in deltas:
                arrived.setdefault(delta.sequence_id, []).append(time.perf_counter())
            changed.notify_all()

    runtime = runtimes.load(engine, RuntimeOptions(), on_step, lambda reason: None)

    def ask(streams: int, seed: int) -> Figures:
        arrived.clear()
        start = time.perf_counter()
        for number, prompt in enumerate(prompts(streams, length, seed)):
            runtime.submit(EngineRequest(number, prompt, Sampling(tokens, temperature=0.0, ignore_eos=True)))
        with changed:
            changed.wait_for(lambda: len(arrived) == streams and all(len(t) == tokens for t in arrived.values()))
        first = max(times[0] for times in arrived.values()) - start
        return figures(streams, tokens, first, max(times[-1] for times in arrived.values()) - start)

    try:
        ask(1, seed=0)
        return [ask(streams, seed=1) for streams in STREAMS]
    finally:
        runtime.close()


def measure_transformers(model: str, dtype: str, length: int, tokens: int) -> list[Figures]:
    import torch
    from transformers import AutoModelForCausalLM

    source = synthetic.cached(model) if model in SYNTHETIC else Path(model)
    loaded = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype)).eval()
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "eos_token_id": None}

    def generate(ids: Any, count: int) -> list[float]:
        """Seconds from the start to each step's end: ``transformers`` asks after every token whether to stop."""
        times: list[float] = []
        start = time.perf_counter()

        def note(*_: Any, **__: Any) -> Any:
            times.append(time.perf_counter() - start)
            return torch.zeros(len(ids), dtype=torch.bool)

        with torch.inference_mode():
            more = {"max_new_tokens": count, "min_new_tokens": count, "pad_token_id": 0, "stopping_criteria": [note]}
            loaded.generate(ids, attention_mask=torch.ones_like(ids), **more, **greedy)
        return times

    def ask(streams: int) -> Figures:
        times = generate(torch.tensor(prompts(streams, length, seed=1)), tokens)
        assert len(times) == tokens
        return figures(streams, tokens, times[0], times[-1])

    generate(torch.tensor(prompts(1, length, seed=0)), 4)
    return [ask(streams) for streams in STREAMS]


def measure(subject: str, model: str, length: int, tokens: int) -> list[Figures]:
    if subject == "openvino-int8":
        return measure_openvino(model, length, tokens)
    return measure_transformers(model, {"bf16": "bfloat16", "fp32": "float32"}[subject[-4:]], length, tokens)


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians over the rounds with their smallest and largest value, and ratios to each ``transformers`` row."""
    seen: dict[tuple[str, int], list[Figures]] = {}
    for number in range(args.rounds):
        for subject in SUBJECTS:
            print(f"round {number + 1}/{args.rounds}: {subject}", flush=True)
            command = [sys.executable, "-m", "loadtest.bench.cpu", "--subject", subject, "--model", args.model]
            command += ["--prompt", str(args.prompt), "--tokens", str(args.tokens)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            for item in json.loads(done.stdout.splitlines()[-1]):
                seen.setdefault((subject, item["streams"]), []).append(Figures(**item))
    rows = [row(subject, streams, found) for (subject, streams), found in seen.items()]
    for ours in (r for r in rows if r["engine"] == SUBJECTS[0]):
        for theirs in (r for r in rows if r["streams"] == ours["streams"] and r is not ours):
            for key in ("decode_tokens_per_s", "tokens_per_s"):
                ours[f"{key}_over_{theirs['engine']}"] = round(ours[key] / theirs[key], 2)
    return rows


def row(subject: str, streams: int, found: list[Figures]) -> dict[str, Any]:
    figure: dict[str, Any] = {"engine": subject, "streams": streams, "rounds": len(found)}
    for key, name in (("ttft", "ttft_s"), ("decode", "decode_tokens_per_s"), ("total", "tokens_per_s")):
        values = [getattr(item, key) for item in found]
        figure[name] = round(statistics.median(values), 3)
        figure[f"{name}_spread"] = [round(min(values), 3), round(max(values), 3)]
    return figure


def main() -> None:
    parser = Arguments(prog="bench-cpu", description=__doc__)
    parser.add_argument("--model", default="synthetic-0.5b", help="directory or synthetic shape (%(default)s)")
    parser.add_argument("--prompt", type=count, default=128, help="tokens per prompt (%(default)s)")
    parser.add_argument("--tokens", type=count, default=48, help="tokens per answer (%(default)s)")
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--out", type=Path, default=result.RESULTS / "bench_cpu.json")
    parser.add_argument("--subject", choices=SUBJECTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.subject:
        print(json.dumps([asdict(item) for item in measure(args.subject, args.model, args.prompt, args.tokens)]))
        return
    about = result.environment("bench-cpu", args)
    rows = compare(args)
    head = [key for key in rows[0] if not key.endswith("_spread")]
    result.show_table("CPU engine against transformers (medians)", head, [[each.get(k) for k in head] for each in rows])
    print(f"written to {result.write(args.out, about, rows)}")


if __name__ == "__main__":
    main()
