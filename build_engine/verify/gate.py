"""``python -m build_engine verify``: the accuracy gate. Is the quantized engine still the model it was made from?

The reference continues each shipped prompt (half greedily, half sampled); both models are then asked for their most
likely tokens at every position of that text, and for free greedy answers, which are searched for loops. The result is
written into ``engine.json``; the exit code is 1 when a limit of ``thresholds.toml`` is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from build_engine import quantized
from build_engine.build import build as build_engine_directory
from build_engine.calibration import evaluation
from build_engine.plan.model import load_config
from build_engine.source import locate
from build_engine.spec import BuildSpec
from build_engine.staging import cache_directory
from build_engine.verify.metrics import Accuracy, compare, failures
from build_engine.verify.session import EngineScorer, Sample, Scorer
from build_engine.verify.torch_reference import TorchScorer
from contract import engine_dir
from contract.engine_dir import EngineInfo
from contract.errors import BuildError
from contract.versions import read_toml

THRESHOLDS = Path(__file__).parent / "thresholds.toml"
TARGET_TOKENS = 24  # positions compared per prompt
LOSSLESS = ("fp32", "bf16")
ANSWER_TOKENS = 96  # of a free answer, searched for loops
log = logging.getLogger(__name__)


def add_parser(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = sub.add_parser("verify", help="accuracy gate: compare an engine with its unquantized reference")
    parser.add_argument("--engine", type=Path, required=True, metavar="DIR")
    text = "checkpoint or engine directory (default: the one of the last run, else FP32 or BF16 from the same source)"
    parser.add_argument("--reference", type=Path, metavar="DIR", help=text)
    parser.add_argument("--prompts", type=int, help="short prompts (default: thresholds.toml)")
    parser.add_argument("--long", type=int, help="long prompts (default: thresholds.toml)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    engine = engine_dir.read(args.engine)
    if engine.runtime.name == "simulated":
        raise BuildError(f"{args.engine} is simulated: it has no weights to compare")
    for option, count in (("--prompts", args.prompts), ("--long", args.long)):
        if count is not None and count < 0:
            raise BuildError(f"{option} {count}: give a number of prompts, 0 or more")
    if args.prompts == args.long == 0:
        raise BuildError("--prompts 0 --long 0 leaves nothing to compare: give one of them")
    settings = load_settings(engine)
    prompts = shipped_prompts(engine, settings["prompts"], args.prompts, args.long)
    reference = open_reference(engine, args.reference)
    accuracy, names = measure(reference, engine, prompts)
    missed = failures(accuracy, settings["limits"])
    record(engine, accuracy, settings["limits"], missed, names, reference.path, len(prompts))
    report(accuracy, settings["limits"], names)
    if missed:
        raise BuildError(f"{args.engine} fails the accuracy gate: {'; '.join(missed)}. Try {remedy(engine)}")
    print(f"{args.engine} passes the accuracy gate; engine.json says so")
    return 0


def remedy(engine: EngineInfo) -> str:
    """What to try instead, for the engine's precision and KV type."""
    if engine.kv_dtype in ("fp8", "int8") and engine.runtime.name != "openvino":
        return "KV=bf16: a quantized KV cache is the likelier fault on Qwen2.5"
    if engine.precision == "int8_sq":
        return "ALPHA=sweep (other strengths), CALIBRATION= (your own prompts) or PRECISION=int8_wo"
    if engine.precision in ("bf16", "fp32"):
        return "the same build again: an unquantized engine that differs has damaged files or another source"
    if engine.runtime.name == "openvino":
        return "PRECISION=int8" if engine.precision == "int4" else "PRECISION=fp32"
    if engine.precision == "int8":
        return "CALIBRATION= (your own prompts), LLMCOMPRESSOR_PYTHON= (GPTQ; docs/gpu.md) or PRECISION=bf16"
    if engine.runtime.name == "vllm" and engine.precision == "fp8":
        return "PRECISION=int8 (as small), CALIBRATION= (your own prompts) or PRECISION=bf16"
    return "CALIBRATION= (your own prompts) or PRECISION=bf16"


def load_settings(engine: EngineInfo, path: Path = THRESHOLDS) -> dict[str, dict[str, float]]:
    """``limits`` for the engine's precision and ``prompts`` for its KV type."""
    table = read_toml(path)
    quantized_kv = engine.kv_dtype in ("fp8", "int8") and engine.runtime.name != "openvino"
    prompts = table["prompts_quantized_kv" if quantized_kv else "prompts"]
    noise = table["synthetic"] if engine.model.synthetic else {}
    return {"limits": {**table["default"], **table.get(engine.precision, {}), **noise}, "prompts": prompts}


def shipped_prompts(
    engine: EngineInfo, sizes: dict[str, float], short: int | None = None, long: int | None = None
) -> list[list[int]]:
    """Token ids of the gate's prompts that fit the engine. Raises ``BuildError`` when none does."""
    tokenizer = Tokenizer.from_file(str(engine.path / "tokenizer.json"))
    room = engine.limits.max_seq_len - max(ANSWER_TOKENS, TARGET_TOKENS) - 1
    room = min(room, engine.limits.max_input_len - TARGET_TOKENS)  # a prompt is scored with the answer so far
    tokens = int(min(sizes["long_tokens"], room * 0.95))
    texts = evaluation.short(int(sizes["short"]) if short is None else short)
    count = int(sizes["long"]) if long is None else long
    texts += evaluation.long(count, tokens, lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids))
    encoded = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    fitting = [ids for ids in encoded if len(ids) <= room]
    if not fitting:
        raise BuildError(
            f"no prompt fits {engine.path}: its context of {engine.limits.max_seq_len} tokens is too short"
        )
    return fitting


def open_reference(engine: EngineInfo, given: Path | None) -> Scorer:
    """An engine directory through its runtime, a checkpoint through transformers."""
    path = given or default_reference(engine)
    if (path / "engine.json").is_file():
        other = engine_dir.read(path)
        if other.path.resolve() == engine.path.resolve():
            raise BuildError(f"--reference {path} is the engine itself: name what it was made from")
        if other.precision not in LOSSLESS or other.runtime.name == "simulated":
            what = other.runtime.name if other.runtime.name == "simulated" else other.precision
            raise BuildError(f"--reference {path} is {what}: a reference must be unquantized ({', '.join(LOSSLESS)})")
        if other.model.vocab_size != engine.model.vocab_size:
            raise BuildError(f"--reference {path} has another vocabulary than {engine.path}")
        return EngineScorer(other)
    if not (path / "config.json").is_file():
        raise BuildError(f"--reference {path} is neither an engine nor a checkpoint directory")
    return TorchScorer(path)


def default_reference(engine: EngineInfo) -> Path:
    """The reference of the last run, or else a lossless CPU engine of the same source, or that source itself."""
    last = (engine.accuracy or {}).get("reference_path", "")
    if last and Path(last).is_dir():
        return Path(last)
    name, length, source = engine.runtime.name, engine.limits.max_seq_len, engine.model.source
    if name == "tensorrt_llm" and not Path(source).is_dir():
        raise BuildError(
            f"the reference of {engine.path} is not here ({source}): pass --reference, the BF16 checkpoint"
        )
    out = cache_directory() / "references" / f"{engine.model.name}-fp32-{length}"
    spec = BuildSpec(source, "fp32", "openvino", out, context=length)
    if name == "openvino":
        return build_engine_directory(spec)
    checkpoint = locate(spec)
    if quantized.of_directory(checkpoint, load_config(str(checkpoint))):
        raise BuildError(f"{engine.path} was made from a quantized checkpoint: pass --reference, its BF16 original")
    return checkpoint


def measure(
    reference: Scorer, engine: EngineInfo, prompts: Sequence[Sequence[int]]
) -> tuple[Accuracy, tuple[str, str]]:
    """Measure the reference first, then the candidate: they need not fit into memory together."""
    log.info("reference: %s", reference.name)
    try:
        greedy, sampled = prompts[::2], prompts[1::2]
        targets = reference.answer(greedy, TARGET_TOKENS, greedy=True)
        targets += reference.answer(sampled, TARGET_TOKENS, greedy=False) if sampled else []
        ordered = [*greedy, *sampled]
        samples = [Sample(tuple(p), tuple(t)) for p, t in zip(ordered, targets, strict=True)]
        wanted = reference.score(samples)
        answers = reference.answer(ordered, ANSWER_TOKENS, greedy=True)
    finally:
        reference.close()
    with EngineScorer(engine) as candidate:
        log.info("candidate: %s", candidate.name)
        got = candidate.score(samples)
        free = candidate.answer(ordered, ANSWER_TOKENS, greedy=True)
        names = (reference.name, candidate.name)
    tokens = [token for sample in samples for token in sample.target]
    pairs = list(zip(answers, free, strict=True))
    return compare([p for s in wanted for p in s], [p for s in got for p in s], tokens, pairs), names


def record(
    engine: EngineInfo,
    accuracy: Accuracy,
    limits: dict[str, float],
    missed: Sequence[str],
    names: tuple[str, str],
    reference_path: Path,
    prompts: int,
) -> None:
    """Write the result into ``engine.json``."""
    result: dict[str, Any] = {
        "passed": not missed,
        "failed": list(missed),
        **dataclasses.asdict(accuracy),
        "prompts": prompts,
        "reference": names[0],
        "reference_path": str(reference_path),
        "limits": limits,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    engine_dir.write(dataclasses.replace(engine, accuracy=json.loads(json.dumps(result))), engine.path)


def report(accuracy: Accuracy, limits: dict[str, float], names: tuple[str, str]) -> None:
    print(f"reference  {names[0]}\ncandidate  {names[1]}\npositions  {accuracy.positions}")
    for name, limit in limits.items():
        value = getattr(accuracy, name)
        sign = "≥" if name.endswith("agreement") else "≤"
        shown = "not measured" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        print(f"{name:20} {shown:>12}   limit {sign} {limit:g}")
