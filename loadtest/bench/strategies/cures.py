"""The five cures, each measured before and after on the runtime that is present.

Nobody's figures are repeated: where the usual advice names no number its claim reads "claim: qualitative".
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.paths import ROOT
from loadtest.bench.strategies.bench import Server, build_engine, serving, shown
from loadtest.bench.strategies.row import Row, Side
from loadtest.console import show
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
CONTEXTS = (32_768, 4_096)
KV_GB = "0.25"
BLOCK_TOKENS = {"openvino": 32, "vllm": 16, "tensorrt_llm": 32}
LOAD = ("--warmup", "4s", "--drain", "60s", "--scenario", "code", "--language", "en")
WEIGHTS = (".bin", ".safetensors", ".engine")
ORACLE = ROOT / ".venv-oracle/bin/python"


@dataclass(frozen=True, slots=True)
class Setting:
    """``plain`` is the precision before, ``small`` those after; the last built of ``small`` is not served further."""

    model: str
    plain: str
    small: tuple[str, ...]
    engines: Path

    def engine(self, precision: str) -> Path:
        return self.engines / precision


def default_setting(model: str, engines: Path) -> Setting:
    """FP8 against BF16 where there is an NVIDIA GPU, else INT8 and INT4 against FP32 on the CPU."""
    gpu = shutil.which("nvidia-smi") is not None
    return Setting(model, "bf16" if gpu else "fp32", ("fp8",) if gpu else ("int8", "int4"), engines)


def one_user(server: Server, *more: str) -> tuple[dict[str, Any], str]:
    return server.run("--users", "1", "--output-tokens", str(TOKENS), "--input-tokens", str(PROMPT), *LOAD, *more)


def many_users(server: Server, *more: str) -> tuple[dict[str, Any], str]:
    load = ("--users", str(USERS), "--output-tokens", str(TOKENS), "--input-tokens", str(PROMPT), *LOAD)
    return server.run(*load, *more)


def median(summary: dict[str, Any], metric: str) -> float:
    return float(summary["total"]["latency"][metric]["p50"])


def weights_mib(engine: Path) -> float:
    return sum(f.stat().st_size for f in engine.iterdir() if f.suffix in WEIGHTS) / 2**20


@dataclass
class Seen:
    """What one engine showed: TPOT of one user in seconds, tokens/s of eight, weights and resident memory in MiB."""

    tpot: Side
    throughput: Side
    weights: Side
    resident: float


def look_at(setting: Setting, precision: str) -> Seen:
    command = build_engine(setting.model, precision, setting.engine(precision))
    with serving(setting.engine(precision)) as server:
        alone, how_alone = one_user(server)
        crowd, how_crowd = many_users(server)
        resident = server.memory_mib()
    label = precision.upper()
    return Seen(
        Side(label, median(alone, "tpot") * 1e3, "ms", how_alone),
        Side(f"{label}, {USERS} users", crowd["total"]["tokens_per_s"], "tokens/s", how_crowd),
        Side(label, weights_mib(setting.engine(precision)), "MiB", command),
        resident,
    )


def quantization_and_batching(setting: Setting) -> Iterator[Row]:
    """Cures 1 and 2 share the engines' runs."""
    plain = look_at(setting, setting.plain)
    seen = {precision: look_at(setting, precision) for precision in setting.small}
    claim = CLAIMS["quantization"]
    for name, small in seen.items():
        memory = f"resident {plain.resident:.0f} → {small.resident:.0f} MiB"
        yield Row(f"1 quantization, {name}", claim, "weights", plain.weights, small.weights, "less", memory)
        yield Row(f"1 quantization, {name}", claim, "time per token, 1 user", plain.tpot, small.tpot, "less")
    yield from batching(setting, plain, seen[setting.small[0]])


def batching(setting: Setting, plain: Seen, small: Seen) -> Iterator[Row]:
    if not ORACLE.is_file():
        raise LoadtestError("batching: .venv-oracle (torch) is missing: make it with `make setup-oracle`")
    source = checkpoint(setting.model)
    for dtype in ("float32", "bfloat16"):
        command = [str(ORACLE), "-m", "loadtest.bench.strategies.one_by_one", "--model", source, "--dtype", dtype]
        command += ["--prompt", str(PROMPT), "--tokens", str(TOKENS), "--users", str(USERS)]
        alone = run_json(command)
        before = Side(f"transformers.generate {dtype}, one by one", alone["tokens_per_s"], "tokens/s", shown(command))
        ours = plain if dtype == "float32" and setting.plain == "fp32" else small
        note = f"the last of {USERS} users waits {alone['waits_s'][-1]:.0f} s one by one"
        yield Row("2 in-flight batching", CLAIMS["batching"], "throughput", before, ours.throughput, "more", note)


def checkpoint(model: str) -> str:
    """A directory with safetensors: ``model`` itself, or where the builder keeps the synthetic one."""
    if Path(model).is_dir():
        return model
    from build_engine.synthetic import checkpoint as synthetic

    return str(synthetic.cached(model))


def run_json(command: list[str]) -> Any:
    show(f"$ {shown(command)}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadtestError(f"{command[2]}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def context_and_streaming(setting: Setting) -> Iterator[Row]:
    """Cures 3 and 5 on the quantized engine."""
    small = setting.small[0]
    build_engine(setting.model, small, setting.engine(small))
    with serving(setting.engine(small), "--kv-cache-gb", KV_GB) as server:
        yield prompt_length(server)
        yield first_words(server)
        yield fitting_streams(setting.engine(small), server)  # last: the gauge is there after the first request


def fitting_streams(engine: Path, server: Server) -> Row:
    runtime = json.loads((engine / "engine.json").read_text(encoding="utf-8"))["runtime"]["name"]
    blocks = server.metric("qwen_kv_blocks_total")
    if not blocks:
        raise LoadtestError("context: the server does not report qwen_kv_blocks_total")
    size = BLOCK_TOKENS[runtime]
    before, after = (
        Side(f"{n} tokens each", blocks * size / n, "streams", f"{server.command}; qwen_kv_blocks_total × {size} ÷ {n}")
        for n in CONTEXTS
    )
    note = f"{KV_GB} GB of KV cache hold {blocks * size:.0f} tokens"
    return Row("3 context limit", CLAIMS["context"], "full streams that fit", before, after, "more", note)


def prompt_length(server: Server) -> Row:
    sides = []
    for tokens in (LONG_PROMPT, SHORT_PROMPT):
        load = ("--users", "1", "--scenario", "summarize", "--input-tokens", str(tokens), "--output-tokens", "8")
        summary, command = server.run(*LOAD, *load)
        counts = summary["total"]["counts"]
        label = f"prompt of {counts['prompt_tokens'] / counts['completed']:.0f} tokens"
        sides.append(Side(label, median(summary, "ttft") * 1e3, "ms", command))
    return Row("3 context limit", CLAIMS["context"], "TTFT, 1 user", sides[0], sides[1], "less")


def first_words(server: Server) -> Row:
    sides = []
    for stream, label in (("no", "whole answer"), ("yes", "streamed")):
        summary, command = one_user(server, "--stream", stream)
        sides.append(Side(label, median(summary, "ttft") * 1e3, "ms", command))
    note = f"answers of {TOKENS} tokens; the ratio grows with their length"
    return Row("5 streaming", CLAIMS["streaming"], "time to the first words, 1 user", sides[0], sides[1], "less", note)


def attention(setting: Setting) -> Iterator[Row]:
    """Only the CPU engine can be asked to leave chunking off; a GPU engine's build option is not a switch."""
    small = setting.small[0]
    info = json.loads((setting.engine(small) / "engine.json").read_text(encoding="utf-8"))
    if info["runtime"]["name"] != "openvino":
        show(f"4 chunked prefill: {info['runtime']['name']} has no switch for it: not measured")
        return
    sides: dict[str, list[Side]] = {"longest_gap_s": [], "ttft_s": []}
    for tokens, label in ((100_000, "whole prompt in one step"), (128, "chunks of 128")):
        command = [sys.executable, "-m", "loadtest.bench.strategies.chunked", "--engine", str(setting.engine(small))]
        found = run_json([*command, "--step-tokens", str(tokens)])
        for name, values in sides.items():
            values.append(Side(label, found[name] * 1e3, "ms", shown([*command, "--step-tokens", str(tokens)])))
    names = {
        "longest_gap_s": "longest gap of 4 streams while a prompt of 512 tokens arrives",
        "ttft_s": "TTFT of that prompt",
    }
    for name, (before, after) in sides.items():
        yield Row(
            "4 chunked prefill", CLAIMS["attention"], names[name], before, after, "less", "attention is fused in both"
        )


CURES: tuple[Callable[[Setting], Iterator[Row]], ...] = (quantization_and_batching, context_and_streaming, attention)
