"""What a finished build says about itself: the engine's own ``config.json`` against its command line, and the gate."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from build_engine.tensorrt_llm.probe.findings import ProbeResult, judged
from contract import engine_dir
from contract.engine_dir import EngineInfo

# Serving relies on these: limits of the engine, and what prefix reuse and chunked prefill need.
NEEDED = frozenset({"max_batch_size", "max_num_tokens", "max_input_len", "max_seq_len", "use_paged_context_fmha",
                    "remove_input_padding", "kv_cache_type"})  # fmt: skip
NOT_KEPT = frozenset({"checkpoint_dir", "output_dir", "workers"})
SEND = "send us probe.json and probe.log"
WORDS = {"enable": True, "disable": False}


def built(engine: EngineInfo) -> ProbeResult:
    """``trtllm-build``'s options, read back from the engine; lists those that it changed silently."""
    line = next(command for command in engine.build.commands if "trtllm-build" in command)
    config = json.loads((engine.path / "engine" / "config.json").read_text(encoding="utf-8"))
    wrong = list(differences(options(shlex.split(line)), config))
    names = {text.partition(" ")[0] for text in wrong}
    found = "; ".join(wrong) or "all options as asked"
    return judged("plugin_config", not wrong, found, SEND, breaks=bool(names & NEEDED))


def options(argv: Sequence[str]) -> dict[str, str]:
    """``--name value`` pairs after ``trtllm-build`` (which may be part of a ``docker run`` command)."""
    rest = argv[[Path(part).name for part in argv].index("trtllm-build") + 1 :]
    return {name[2:]: value for name, value in zip(rest[::2], rest[1::2], strict=True)}


def differences(asked: Mapping[str, str], config: Mapping[str, Any]) -> Iterator[str]:
    build = config["build_config"]
    places = (build.get("plugin_config") or {}, build, config.get("pretrained_config") or {})
    for name, value in asked.items():
        if name in NOT_KEPT:
            continue
        place = next((place for place in places if name in place), None)
        if place is None:
            yield f"{name} is not in config.json"
        elif not _same(value, place[name]):
            yield f"{name} is {place[name]!r}, asked for {value}"


def _same(asked: str, found: Any) -> bool:
    """``auto`` is anything that is on, and a plugin that is off may be ``None`` or ``False``."""
    if asked == "auto":
        return bool(found)
    if asked in WORDS:
        return bool(found) is WORDS[asked]
    return asked.lower() in str(found).lower().split(".") or asked == str(found)


def gate(engine: EngineInfo, *, must_pass: bool) -> ProbeResult:
    """Random weights may miss limits that are meant for trained models, so only the unquantized engine must pass."""
    accuracy = engine.accuracy or {}
    if accuracy.get("mean_kl") is None:
        missing = "no result in engine.json" if not accuracy else "; ".join(accuracy.get("failed", ()))
        return ProbeResult("accuracy gate", "fail", missing, f"the gate cannot judge here: {SEND}")
    verdict = "passed" if accuracy["passed"] else f"failed: {'; '.join(accuracy['failed'])}"
    found = f"{verdict} (KL {accuracy['mean_kl']:.2g}, agreement {accuracy['greedy_agreement']:.2f})"
    remedy = f"the same weights must pass: {SEND}"
    return judged("accuracy gate", bool(accuracy["passed"]) or not must_pass, found, remedy)


def gate_refuses(engine: Path, other: Path) -> ProbeResult:
    """Run the gate against a checkpoint of other weights, which must fail: a gate that passes everything is useless."""
    command = [sys.executable, "-m", "build_engine", "verify", "--engine", str(engine), "--reference", str(other)]
    done = subprocess.run([*command, "--prompts", "4", "--long", "0"], capture_output=True, text=True, check=False)
    last = ((done.stdout + done.stderr).strip().splitlines() or ["no output"])[-1]
    refused = done.returncode == 1 and "fails the accuracy gate" in last
    return judged("accuracy gate refuses other weights", refused, last[:200], f"the gate judges nothing: {SEND}")


def forget_gate(directory: Path) -> EngineInfo:
    """Remove the gate's result, so that `make serve` accepts the engine whatever its random weights scored."""
    engine = dataclasses.replace(engine_dir.read(directory), accuracy=None)
    engine_dir.write(engine, directory)
    return engine
