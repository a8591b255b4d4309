"""The five mitigations, each measured before and after on the runtime that is installed.

No figures of others are quoted: where the usual advice gives no number, the claim reads "claim: qualitative".
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engine import smollm2
from build_engine.source import open_source
from build_engine.spec import SMOLLM2, BuildSpec
from contract import engine_dir
from contract.model_shape import ModelShape
from contract.paths import ROOT
from loadtest.bench.process import Server, as_typed, started
from loadtest.bench.strategies.commands import build_engine, load_test, run_json
from loadtest.bench.strategies.effect import Effect, Measurement
from loadtest.errors import LoadtestError

CLAIMS = {
    "quantization": "claim: qualitative (INT8/INT4 weights: less memory, faster decoding)",
    "batching": "claim: qualitative (in-flight batching with paged KV: many users at the price of one)",
    "context": "claim: qualitative (a context length that fits the job frees memory for more users)",
    "attention": "claim: qualitative (fused attention and chunked prefill: long prompts no longer stall the others)",
    "streaming": "claim: qualitative (the first words at once instead of the whole answer at the end)",
}
USERS = 8
TOKENS = 24
PROMPT = 64
LONG_PROMPT, SHORT_PROMPT = 1024, 128
SHORTER = 8  # a context that fits a small job: this part of the model's own
FULL_STREAMS = 2  # that the KV cache holds at the whole context: vLLM does not start with less than one
BLOCK_TOKENS = {"openvino": 32, "vllm": 16, "tensorrt_llm": 32}
LOAD = ("--warmup", "4s", "--drain", "60s", "--scenario", "code", "--language", "en")
WEIGHTS = (".bin", ".safetensors", ".engine")
ORACLE = ROOT / ".venv-oracle/bin/python"
ATTENTION_PROMPTS = (8_192, 16_384)  # eager attention of 32k prompts needs more than 80 GB


@dataclass(frozen=True, slots=True)
class EngineSet:
    """Engines of one model. ``plain``: the precision before quantization; ``small``: those after it."""

    model: str
    plain: str
    small: tuple[str, ...]
    directory: Path
    runtime: str = "openvino"

    def engine(self, precision: str) -> Path:
        return self.directory / precision


def default_engines(model: str, directory: Path) -> EngineSet:
    """FP8 against BF16 where there is an NVIDIA GPU, else INT8 and INT4 against FP32 on the CPU.

    Weights that come with 4 bits are not rounded to 4 again: they would be smaller, and no longer the model.
    Raises ``BuildError`` where the model cannot be had."""
    if shutil.which("nvidia-smi") is None:
        return EngineSet(model, "fp32", ("int8",) if few_bits(model) else ("int8", "int4"), directory)
    return EngineSet(model, "bf16", ("fp8", "int8"), directory, "vllm")


def few_bits(model: str) -> bool:
    spec = BuildSpec(model, "int8", "openvino", Path())
    return spec.is_gguf and open_source(spec).is_low_bit


def torch_python() -> str:
    """An interpreter with torch: ``.venv-oracle``'s, or on a GPU host the one that runs vLLM."""
    python = str(ORACLE) if ORACLE.is_file() else os.environ.get("PYTHON_EXECUTABLE", "")
    if not python:
        raise LoadtestError(".venv-oracle (torch) is missing: make it with `make setup-oracle`")
    return python


def one_user(server: Server, *more: str) -> tuple[dict[str, Any], str]:
    return load_test(
        server, "--users", "1", "--output-tokens", str(TOKENS), "--input-tokens", str(PROMPT), *LOAD, *more
    )


def many_users(server: Server, *more: str) -> tuple[dict[str, Any], str]:
    load = ("--users", str(USERS), "--output-tokens", str(TOKENS), "--input-tokens", str(PROMPT), *LOAD)
    return load_test(server, *load, *more)


def median(summary: dict[str, Any], metric: str) -> float:
    return float(summary["total"]["latency"][metric]["p50"])


def weights_mib(engine: Path) -> float:
    return sum(f.stat().st_size for f in engine.iterdir() if f.suffix in WEIGHTS) / 2**20


@dataclass
class EngineFigures:
    """One engine's TPOT with one user in ms, tokens/s with eight users, and weights and resident memory in MiB."""

    tpot: Measurement
    throughput: Measurement
    weights: Measurement
    resident: float


def measure_engine(engines: EngineSet, precision: str) -> EngineFigures:
    command = build_engine(engines.model, precision, engines.engine(precision), engines.runtime)
    with started("--engine", str(engines.engine(precision))) as server:
        alone, how_alone = one_user(server)
        crowd, how_crowd = many_users(server)
        resident = max(server.memory_mib().values())  # of the process that holds the model, on the CPU
    label = precision.upper()
    return EngineFigures(
        Measurement(label, median(alone, "tpot") * 1e3, "ms", how_alone),
        Measurement(f"{label}, {USERS} users", crowd["total"]["tokens_per_s"], "tokens/s", how_crowd),
        Measurement(label, weights_mib(engines.engine(precision)), "MiB", command),
        resident,
    )


def quantization_and_batching(engines: EngineSet) -> Iterator[Effect]:
    """Mitigations 1 and 2 share the runs of each engine."""
    plain = measure_engine(engines, engines.plain)
    seen = {precision: measure_engine(engines, precision) for precision in engines.small}
    claim = CLAIMS["quantization"]
    for name, small in seen.items():
        memory = f"resident {plain.resident:.0f} → {small.resident:.0f} MiB" if engines.runtime == "openvino" else ""
        if small.weights.value < plain.weights.value:  # vLLM's FP8 is made while it loads: the same on disk
            yield Effect(f"1 quantization, {name}", claim, "weights", plain.weights, small.weights, "less", memory)
        yield Effect(f"1 quantization, {name}", claim, "time per token, 1 user", plain.tpot, small.tpot, "less")
    yield from batching(engines, plain, seen[engines.small[0]])


def batching(engines: EngineSet, plain: EngineFigures, small: EngineFigures) -> Iterator[Effect]:
    source = checkpoint(engines.model)
    for dtype in ("float32", "bfloat16") if engines.plain == "fp32" else ("bfloat16",):
        command = [torch_python(), "-m", "loadtest.bench.strategies.one_by_one", "--model", source, "--dtype", dtype]
        command += ["--engine", str(engines.engine(engines.plain)), "--prompt", str(PROMPT)]
        command += ["--tokens", str(TOKENS), "--users", str(USERS)]
        alone = run_json(command)
        before = Measurement(
            f"transformers.generate {dtype}, one by one", alone["tokens_per_s"], "tokens/s", as_typed(command)
        )
        ours = plain if dtype == "float32" and engines.plain == "fp32" else small
        note = f"the last of {USERS} users waits {alone['waits_s'][-1]:.0f} s one by one"
        yield Effect("2 in-flight batching", CLAIMS["batching"], "throughput", before, ours.throughput, "more", note)


def checkpoint(model: str) -> str:
    """A directory with safetensors or a GGUF file: ``model`` itself, or where the builder keeps its own."""
    if Path(model).exists():
        return model
    if model == SMOLLM2:
        return str(smollm2.cached())
    from build_engine.synthetic import checkpoint as synthetic

    return str(synthetic.cached(model))


def context_and_streaming(engines: EngineSet) -> Iterator[Effect]:
    """Mitigations 3 and 5 on the quantized engine."""
    small = engines.small[0]
    build_engine(engines.model, small, engines.engine(small), engines.runtime)
    info = engine_dir.read(engines.engine(small))
    gib = kv_gib(info)
    with started("--engine", str(info.path), "--kv-cache-gb", f"{gib:.2f}") as server:
        yield prompt_length(server)
        yield first_words(server)
        yield fitting_streams(info, gib, server)  # last: the gauge appears with the first request


def kv_gib(info: engine_dir.EngineInfo) -> float:
    shape = ModelShape.of(json.loads((info.path / "config.json").read_text(encoding="utf-8")))
    tokens = FULL_STREAMS * info.limits.max_seq_len
    return math.ceil(tokens * shape.kv_bytes_per_token(info.kv_dtype) / 2**30 * 100) / 100


def fitting_streams(info: engine_dir.EngineInfo, gib: float, server: Server) -> Effect:
    context = info.limits.max_seq_len
    blocks = server.metric("qwen_kv_blocks_total")
    if not blocks:
        raise LoadtestError("context: the server does not report qwen_kv_blocks_total")
    size = BLOCK_TOKENS[info.runtime.name]
    before, after = (
        Measurement(
            f"{n:,} tokens each", blocks * size / n, "streams", f"{server.typed}; qwen_kv_blocks_total × {size} ÷ {n}"
        )
        for n in (context, context // SHORTER)
    )
    note = f"{gib:.2f} GiB of KV cache hold {blocks * size:,.0f} tokens"
    return Effect("3 context limit", CLAIMS["context"], "full streams that fit", before, after, "more", note)


def prompt_length(server: Server) -> Effect:
    sides = []
    for tokens in (LONG_PROMPT, SHORT_PROMPT):
        load = ("--users", "1", "--scenario", "summarize", "--input-tokens", str(tokens), "--output-tokens", "8")
        summary, command = load_test(server, *LOAD, *load)
        counts = summary["total"]["counts"]
        label = f"prompt of {counts['prompt_tokens'] / counts['completed']:.0f} tokens"
        sides.append(Measurement(label, median(summary, "ttft") * 1e3, "ms", command))
    return Effect("3 context limit", CLAIMS["context"], "TTFT, 1 user", sides[0], sides[1], "less")


def first_words(server: Server) -> Effect:
    sides = []
    for stream, label in (("no", "whole answer"), ("yes", "streamed")):
        summary, command = one_user(server, "--stream", stream)
        sides.append(Measurement(label, median(summary, "ttft") * 1e3, "ms", command))
    note = f"answers of {TOKENS} tokens; the ratio grows with their length"
    return Effect(
        "5 streaming", CLAIMS["streaming"], "time to the first words, 1 user", sides[0], sides[1], "less", note
    )


def attention(engines: EngineSet) -> Iterator[Effect]:
    """Fused attention on a GPU; the CPU engine has no other, so there chunked prefill stands in its place."""
    if engines.runtime != "openvino":
        yield from fused_attention(engines)
        return
    small = engines.small[0]
    sides: dict[str, list[Measurement]] = {"longest_gap_s": [], "ttft_s": []}
    for tokens, label in ((100_000, "whole prompt in one step"), (128, "chunks of 128")):
        command = [sys.executable, "-m", "loadtest.bench.strategies.chunked", "--engine", str(engines.engine(small))]
        found = run_json([*command, "--step-tokens", str(tokens)])
        for name, values in sides.items():
            values.append(
                Measurement(label, found[name] * 1e3, "ms", as_typed([*command, "--step-tokens", str(tokens)]))
            )
    names = {
        "longest_gap_s": "longest gap of 4 streams while a prompt of 512 tokens arrives",
        "ttft_s": "TTFT of that prompt",
    }
    for name, (before, after) in sides.items():
        yield Effect(
            "4 chunked prefill", CLAIMS["attention"], names[name], before, after, "less", "attention is fused in both"
        )


def fused_attention(engines: EngineSet) -> Iterator[Effect]:
    for tokens in ATTENTION_PROMPTS:
        sides = []
        for kind, label in (("eager", "eager"), ("sdpa", "fused (FlashAttention)")):
            command = [torch_python(), "-m", "loadtest.bench.strategies.prefill", "--model", checkpoint(engines.model)]
            command += ["--attention", kind, "--prompt", str(tokens)]
            sides.append(Measurement(label, run_json(command)["seconds"] * 1e3, "ms", as_typed(command)))
        name = f"prefill of {tokens:,} tokens, transformers"
        yield Effect("4 fused attention", CLAIMS["attention"], name, sides[0], sides[1], "less")


MITIGATIONS: tuple[Callable[[EngineSet], Iterator[Effect]], ...] = (
    quantization_and_batching,
    context_and_streaming,
    attention,
)
