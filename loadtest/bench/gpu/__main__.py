"""`make bench-gpu`: the whole comparison on one GPU host -> results/bench_gpu.{json,md,svg}.

Per precision (``--together``: of all precisions) all servers are loaded at once with equal KV caches (an idle one costs
no GPU time); each round runs every contender at every number of streams in a rotated order, on prompts that none of
them has seen; other answer lengths are measured in the first round alone. A warm-up run of each is thrown away.
Figures are medians over the rounds.
"""

from __future__ import annotations

import contract.program

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contract.errors import BuildError
from contract.model_shape import ModelShape
from loadtest.bench import result
from loadtest.bench.gpu import engines, limits, options, report
from loadtest.bench.gpu.client import Load
from loadtest.bench.gpu.contenders import (
    Contender,
    Offline,
    OursGateway,
    OursGrpc,
    Setup,
    Transformers,
)
from loadtest.bench.gpu.prompts import PromptMaker
from loadtest.bench.gpu.vllm_serve import VllmServe, VllmServeInterval, VllmServeRust
from loadtest.errors import LoadtestError

log = logging.getLogger("bench-gpu")
BURST = 64  # requests at once, right after all are ready
PORTS = 25  # of the servers of one precision
REQUESTS = {1: 16}  # requests per stream in a run, where it is not --requests


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.began = time.monotonic()
        self.runs: dict[tuple[str, Load, str], list[dict[str, Any]]] = {}
        self.weights: dict[str, dict[str, float]] = {}
        self.facts: dict[str, Any] = {}
        self.about = result.environment("bench-gpu", args, model="random weights in the shape of Qwen2.5-7B")
        args.out.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        self.facts["copy_bandwidth_gb_s"] = round(limits.copy_bandwidth() / 1e9, 1)
        source = engines.checkpoint(self.args.work / "checkpoint", weights=not self.args.dummy)
        self.config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        self.prompts = PromptMaker(source / "tokenizer.json")
        groups = [self.args.precision] if self.args.together else [[each] for each in self.args.precision]
        for group in groups:
            self._group({precision: self._engine(source, precision) for precision in group})
            self.write()
        if ("transformers", "") in self.args.contenders:
            self._transformers(source)
        self.write()

    def _engine(self, source: Path, precision: str) -> Path:
        began, directory = self.elapsed, self.args.work / f"{precision}-tp{self.args.tp}"
        engine = engines.engine(source, directory, precision, self.args.tp, self.args.vllm_args)
        log.info("%5.0f s  %s engine, built in %.0f s", self.elapsed, precision, self.elapsed - began)
        return engine

    def _setup(self, engine: Path, offset: int) -> Setup:
        args = self.args
        return Setup(
            engine,
            args.port + offset,
            args.kv_gib << 30,
            args.output_tokens,
            max(256, *args.streams),
            args.out,
            vllm_client=args.client == "vllm",
            vllm_steps=args.vllm_steps,
        )

    def _contenders(self, engine: Path, precision: str, offset: int) -> list[Contender]:
        ours = OursGrpc(self._setup(engine, offset), precision)
        known: list[Contender] = [
            Offline(self._setup(engine, offset + 5), precision),
            VllmServe(self._setup(engine, offset + 10), precision),
            VllmServeRust(self._setup(engine, offset + 15), precision),
            VllmServeInterval(self._setup(engine, offset + 20), precision),
            ours,
            OursGateway(ours),
        ]
        wanted = self.args.contenders
        return [one for one in known if (one.label, "") in wanted or (one.label, precision) in wanted]

    def _group(self, engine_of: dict[str, Path]) -> None:
        """Load all servers of these precisions at once, and measure them."""
        wanted = [
            one
            for number, (precision, engine) in enumerate(engine_of.items())
            for one in self._contenders(engine, precision, PORTS * number)
        ]
        launched = wanted
        try:
            for one in wanted:
                one.launch()
            wanted = [one for one in wanted if self._is_up(one)]
            if launched and not wanted:
                raise LoadtestError(f"{', '.join(engine_of)}: no contender started; the lines above name their logs")
            for one in wanted:
                if gib := one.weights_gib():
                    self.weights.setdefault(one.precision, {})[one.label] = gib
            if wanted:
                self._rounds(wanted)
        finally:
            for one in launched:
                one.stop()

    def _is_up(self, one: Contender) -> bool:
        """Whether it started. One that did not is logged, recorded and left out; the others are still compared."""
        try:
            one.wait()
        except LoadtestError as error:
            log.error("%s", error)
            self.facts.setdefault("missing", []).append(str(error))
            return False
        log.info("%5.0f s  %s %s is ready", self.elapsed, one.precision, one.label)
        return True

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def _loads(self) -> list[Load]:
        args = self.args
        loads = [Load(streams, 0.0, sampling) for sampling in args.sampling for streams in args.streams]
        loads += [Load(0, rate, sampling) for sampling in args.sampling for rate in args.rates]
        return loads + [
            Load(streams, 0.0, sampling, tokens) for sampling in args.sampling for streams, tokens in args.answers
        ]

    def _rounds(self, wanted: list[Contender]) -> None:
        served = [one for one in wanted if not isinstance(one, Offline)]
        bursts = self.facts.setdefault("burst_ttft_ms", {})
        for when in ("first", "later"):  # a kernel that is compiled at its first use shows as a slow first burst
            for one in served:
                seen = self._one(one, Load(BURST, sampling="defaults"), -1 if when == "first" else -2)
                found = bursts.setdefault(one.precision, {}).setdefault(one.label, {})
                found[when] = seen.get("ttft_ms") or seen.get("first_error")
            for one in wanted if when == "first" else ():
                self._one(one, Load(max(self.args.streams), sampling="greedy"), 0)
        for number in range(1, self.args.rounds + 1):
            if number > 1 and self.args.deadline and self.elapsed > self.args.deadline:
                log.info("deadline: no round %d", number)
                return
            for at, load in enumerate(self._loads()):
                if load.tokens and number > 1:
                    continue
                for one in _rotated(served if load.rate else wanted, number + at):
                    seen = self._one(one, load, number)
                    self.runs.setdefault((one.precision, load, one.label), []).append(seen)
            self.write()

    def _one(self, one: Contender, load: Load, number: int) -> dict[str, Any]:
        """Rounds below 1 are warm-ups: one request per stream."""
        count = round(load.rate * self.args.rate_seconds) if load.rate else load.streams * (
            REQUESTS.get(load.streams, self.args.requests) if number > 0 else 1
        )  # fmt: skip
        seed = (number + 2) * 100_000 + load.streams + round(load.rate * 1000) + one.seed_shift + load.tokens
        seed += 50_000 * (load.sampling == "defaults")
        prompts = self.prompts.make(count, self.args.input_tokens, seed=seed, shared=self.args.shared_prefix)
        cpu = one.cpu_seconds()
        try:
            seen = one.run(prompts, load)
        except (LoadtestError, RuntimeError, OSError) as error:
            seen = {"errors": count, "first_error": str(error)}
        seen["cpu_s"] = round(one.cpu_seconds() - cpu, 2)
        log.info("%5.0f s  %s %-12s %s, %s, round %d: %s tokens/s %s", self.elapsed, one.precision, one.label, load,
                 load.sampling, number, seen.get("tokens_per_s"), seen.get("first_error", ""))  # fmt: skip
        return seen

    def _transformers(self, source: Path) -> None:
        """One run each: its rounds would take longer than everybody else's together."""
        one = Transformers(self._setup(source, 15), "bf16")
        try:
            one.launch()
            one.wait()
            one.ask(self.prompts.make(1, 64, seed=1).ids, tokens=8)
            for streams in (1, 32):
                prompts = self.prompts.make(streams, self.args.input_tokens, seed=streams)
                load = Load(streams)
                self.runs.setdefault(("bf16", load, one.label), []).append(one.run(prompts, load))
        finally:
            one.stop()

    def rows(self) -> Iterator[dict[str, Any]]:
        order = {name: i for i, name in enumerate(report.CONTENDERS)}

        def place(key: tuple[str, Load, str]) -> tuple[Any, ...]:
            precision, load, label = key
            at = load.sampling, load.rate, load.tokens, load.streams, order[label]
            return (*at, precision) if self.args.together else (self.args.precision.index(precision), *at)

        for key in sorted(self.runs, key=place):
            precision, load, contender = key
            row: dict[str, Any] = {"precision": precision, "sampling": load.sampling, "load": str(load)}
            row |= {"contender": contender} | report.medians(self.runs[key])
            if "tokens_per_s" in row and load.streams:
                context = self.args.input_tokens + (load.tokens or self.args.output_tokens) / 2
                traffic = limits.Traffic(ModelShape.of(self.config), *engines.bits(precision))
                limit = traffic.tokens_per_s(load.streams, context, self.facts["copy_bandwidth_gb_s"] * 1e9)
                row["of_limit"] = round(row["tokens_per_s"] / limit, 3)
            yield row

    def write(self) -> None:
        rows = list(self.rows())
        rounds = [
            {"precision": precision, "load": str(load), "sampling": load.sampling, "contender": label, "rounds": runs}
            for (precision, load, label), runs in self.runs.items()
        ]
        about = self.about | self.facts
        result.write(self.args.out / "bench_gpu.json", about, rows, weights_gib=self.weights, runs=rounds)
        (self.args.out / "bench_gpu.md").write_text(report.markdown(rows), encoding="utf-8")
        (self.args.out / "bench_gpu.svg").write_text(report.chart(rows), encoding="utf-8")


def _rotated(items: list[Contender], by: int) -> list[Contender]:
    at = by % len(items)
    return items[at:] + items[:at]


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = options.parse(__doc__)
    bench = Bench(args)
    try:
        bench.run()
    except (BuildError, LoadtestError) as error:
        bench.write()
        print(f"error: {error}", file=sys.stderr)
        return 1
    report.show(list(bench.rows()))
    print(f"written to {args.out}/bench_gpu.json, .md and .svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
