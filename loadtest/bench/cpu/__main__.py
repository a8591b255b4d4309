"""Every measurement is a fresh process; the engines take turns, round after round, so that other load on the machine
falls on all of them. Greedy, equal prompts of random tokens, end tokens ignored, one warm-up request, all cores. Our
engine is measured as it is served, through its runtime and worker process; peers without a server around them. With
--scenario a load test's requests take the place of random tokens, one after the other to their end, ours with drafts.
Writes results/bench_cpu.json and .md. The 7B shape takes 30 GiB of disk and 16 of memory:
--model synthetic-7b --streams 1 --rounds 3 --peers llama.cpp.
"""

from __future__ import annotations

import contract.program

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from build_engine.source import open_source
from build_engine.spec import SMOLLM2, BuildSpec
from build_engine.staging import cache_directory
from contract import engine_dir
from contract.engine_dir import EngineInfo
from contract.errors import OperatorError
from contract.paths import ROOT
from loadtest.arguments import Arguments, count
from loadtest.bench import result
from loadtest.bench.cpu.figures import Figures, Workload, arguments, row
from loadtest.bench.cpu.gguf import KINDS
from loadtest.bench.cpu.peers import PEERS, Missing, Subject, ours
from loadtest.errors import EXIT_OK, EXIT_USAGE
from loadtest.scenarios import SCENARIOS
from loadtest.scenarios.base import ScenarioSettings, request_number
from serving.tokenizer.prompt import PromptBuilder

NUMBERS = ("ttft_s", "prefill_tokens_per_s", "decode_tokens_per_s")
Row = dict[str, Any]


def subjects(spec: BuildSpec, wanted: Sequence[str]) -> tuple[list[Subject], dict[str, str]]:
    """Ours and the peers that can run here; the others with the reason."""
    missing: dict[str, str] = {}
    found = [peer(name, spec, missing) for name in wanted]
    return [ours(spec), *(each for each in found if each)], missing


def peer(name: str, spec: BuildSpec, missing: dict[str, str]) -> Subject | None:
    try:
        return PEERS[name](spec)
    except (Missing, OperatorError) as error:
        missing[name] = str(error)
        print(f"not measured: {name}: {error}", flush=True)
        return None


def compare(running: list[Subject], load: Workload, rounds: int, missing: dict[str, str]) -> list[Row]:
    """A row for each engine and number of streams; ours with their ratios to the peers. A peer that fails is out."""
    seen: dict[tuple[str, int], list[Figures]] = {}
    for number in range(rounds):
        for subject in [each for each in running if each.name not in missing]:
            print(f"round {number + 1}/{rounds}: {subject.name}", flush=True)
            found = run(subject, load, missing)
            for item in found:
                seen.setdefault((subject.name, item.streams), []).append(item)
    rows = [row(name, streams, found) for (name, streams), found in seen.items() if name not in missing]
    return with_ratios(rows, running[0].name)


def run(subject: Subject, load: Workload, missing: dict[str, str]) -> list[Figures]:
    command = [subject.python, "-m", f"loadtest.bench.cpu.{subject.module}", str(subject.model), *arguments(load)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **subject.environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        missing[subject.name] = lines[-1] if lines else f"exit code {done.returncode}"
        print(f"not measured: {subject.name}: {missing[subject.name]}", flush=True)
        return []
    return [Figures(**item) for item in json.loads(done.stdout.splitlines()[-1])]


def of_scenario(load: Workload, scenario: str, requests: int, engine: EngineInfo) -> Workload:
    """The scenario's first requests as the engine's own chat template renders them."""
    builder = PromptBuilder(engine)
    source = SCENARIOS[scenario](ScenarioSettings(language="en"))
    asked = [request_number(source, number) for number in range(requests)]
    ids = [builder.encode({"messages": [json.dumps(request.messages).encode()]}).ids for request in asked]
    texts = tuple((each, request.max_tokens) for each, request in zip(ids, asked, strict=True))
    return replace(load, streams=(1,), texts=texts, ends=engine_dir.end_ids(engine.path))


def with_ratios(rows: list[Row], name: str) -> list[Row]:
    """``prefill_over`` and ``decode_over`` on the rows of ``name``: how many times as fast as each peer."""
    for mine in (each for each in rows if each["engine"] == name):
        theirs = [each for each in rows if each["streams"] == mine["streams"] and each is not mine]
        for kind in ("prefill", "decode"):
            key = f"{kind}_tokens_per_s"
            mine[f"{kind}_over"] = {each["engine"]: round(mine[key] / each[key], 2) for each in theirs}
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The table of docs/benchmarks.md."""
    lines = [
        "| engine | streams | TTFT ms | prefill tokens/s | decode tokens/s (range) | ours: prefill | ours: decode |",
        "|---|---|---|---|---|---|---|",
    ]
    own = {each["streams"]: each for each in rows if "decode_over" in each}
    for each in sorted(rows, key=lambda r: r["streams"]):
        mine, name = own[each["streams"]], each["engine"]
        ratios = [f"{mine[key][name]:.2f} ×" if name in mine[key] else "" for key in ("prefill_over", "decode_over")]
        low, high = each["decode_tokens_per_s_spread"]
        lines.append(
            f"| {name} | {each['streams']} | {1000 * each['ttft_s']:.0f} | {each['prefill_tokens_per_s']:,.0f} | "
            f"{each['decode_tokens_per_s']:,.1f} ({low:,.1f}–{high:,.1f}) | {ratios[0]} | {ratios[1]} |"
        )
    return "\n".join(lines) + "\n"


def parsed() -> argparse.Namespace:
    parser = Arguments(prog="bench-cpu", description=__doc__)
    parser.add_argument(
        "--model", default=SMOLLM2, help="smollm2, synthetic-0.5b, synthetic-7b, a directory (%(default)s)"
    )
    parser.add_argument("--precision", choices=list(KINDS), default="int8", help="of ours and llama.cpp (%(default)s)")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--streams", nargs="+", type=count, default=[1, 8, 16])
    parser.add_argument("--prompt", type=count, default=128, help="tokens per prompt (%(default)s)")
    parser.add_argument("--tokens", type=count, default=48, help="tokens per answer (%(default)s)")
    parser.add_argument("--scenario", choices=list(SCENARIOS), help="ask what this load test asks, in English")
    parser.add_argument("--requests", type=count, default=20, help="of the scenario (%(default)s)")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--threads", type=int, default=0, help="of every engine (default: its own choice)")
    parser.add_argument("--out", type=Path, default=result.RESULTS / "bench_cpu.json")
    return parser.parse_args()


def main() -> int:
    args = parsed()
    about = result.environment("bench-cpu", args)
    name = Path(args.model.rstrip("/")).stem
    spec = BuildSpec(args.model, args.precision, "openvino", cache_directory() / "bench" / f"{name}-{args.precision}")
    try:
        vocabulary = int(open_source(spec).config["vocab_size"])
        running, missing = subjects(spec, args.peers)
    except OperatorError as error:
        print(f"bench-cpu: {error}", file=sys.stderr)
        return EXIT_USAGE
    load = Workload(tuple(args.streams), args.prompt, args.tokens, vocabulary, args.threads)
    if args.scenario:
        load = of_scenario(load, args.scenario, args.requests, engine_dir.read(running[0].model))
    rows = compare(running, load, args.rounds, missing)
    if not rows:
        return EXIT_USAGE
    head = ["engine", "streams", "rounds", *NUMBERS]
    result.show_table("CPU engines (medians)", head, [[each[key] for key in head] for each in rows])
    path = result.write(args.out, about, rows, not_measured=missing)
    path.with_suffix(".md").write_text(markdown(rows), encoding="utf-8")
    print(markdown(rows) + f"written to {path} and {path.with_suffix('.md').name}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
