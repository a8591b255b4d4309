"""The engine directory: what ``build_engine`` writes and everything else only reads.

``engine.json`` is typed and versioned; its JSON schema is ``contract/engine.schema.json``. Beside it are
``tokenizer.json``, ``tokenizer_config.json``, ``generation_config.json``, ``config.json`` and the runtime's own files.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from contract.errors import EngineDirectoryError, shown

SCHEMA_VERSION = 1
LORA_DIR = "lora"
REBUILD = "rebuild it with `make engine`"
OPENVINO_RECIPE = 5  # one more when the builder's graph changes: engines built before are then out of date
# Small files that an operator may edit (sampling defaults, the chat template): their size says nothing.
EDITABLE = ("config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja")
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    name: str  # what /v1/models calls it, e.g. "qwen2.5-7b-instruct"
    source: str  # hub id or path it was built from
    revision: str = ""
    synthetic: bool = False  # random weights: its text is noise
    vocab_size: int = 0


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    name: str  # tensorrt_llm | vllm | openvino | simulated
    version: str = ""
    backend: str = ""  # tensorrt_llm: "engine" or "pytorch"; vllm: the form of its checkpoint
    profile: str = ""  # tensorrt_llm: "balanced", "latency" or "throughput"; empty is balanced
    options: dict[str, Any] = field(default_factory=dict)  # vllm: engine arguments beside ours
    recipe: int = 0  # openvino: the builder's OPENVINO_RECIPE; 0 before it was recorded


@dataclass(frozen=True, slots=True)
class GpuInfo:
    name: str = ""
    sm: int = 0  # 80, 89, 90
    tensor_parallel: int = 1


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Tokens, except ``max_batch_size`` (sequences)."""

    max_seq_len: int
    max_input_len: int
    max_batch_size: int = 256
    max_num_tokens: int = 8192


@dataclass(frozen=True, slots=True)
class FileInfo:
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class BuildInfo:
    commands: list[str] = field(default_factory=list)
    started: str = ""  # ISO 8601, UTC
    seconds: float = 0.0
    host: str = ""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    model: ModelInfo
    runtime: RuntimeInfo
    precision: str  # fp8 | int8_sq | int8_wo | int8 | int4 | bf16 | fp32
    kv_dtype: str  # bf16 | fp8 | int8 | fp32
    limits: EngineLimits
    gpu: GpuInfo | None = None
    rope_scaling: dict[str, Any] | None = None
    files: dict[str, FileInfo] = field(default_factory=dict)
    accuracy: dict[str, Any] | None = None
    build: BuildInfo = field(default_factory=BuildInfo)
    schema_version: int = SCHEMA_VERSION
    path: Path = field(default=Path(), compare=False)  # where it was read from; not written

    def to_json(self) -> str:
        data = dataclasses.asdict(self)
        del data["path"]
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def write(engine: EngineInfo, directory: Path) -> None:
    """Write ``engine.json`` last and at once, so that an interrupted build never looks finished."""
    partial = directory / "engine.json.partial"
    partial.write_text(engine.to_json(), encoding="utf-8")
    partial.replace(directory / "engine.json")


def read(directory: Path) -> EngineInfo:
    """Read and check ``directory/engine.json``. Raises ``EngineDirectoryError`` with one line that says what to do."""
    path = directory / "engine.json"
    if not path.is_file():
        raise EngineDirectoryError(f"no engine at {directory} (engine.json is missing): build one with `make engine`")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineDirectoryError(f"{path} cannot be read ({error}): {REBUILD}") from error
    if not isinstance(data, dict) or not isinstance(data.get("schema_version"), int):
        raise EngineDirectoryError(f"{path} is not an engine description (no schema_version): {REBUILD}")
    version = data["schema_version"]
    if version > SCHEMA_VERSION:
        raise EngineDirectoryError(
            f"{path} has schema_version {version}, newer than the {SCHEMA_VERSION} this code reads: update this "
            f"repository or {REBUILD}"
        )
    try:
        return _parse(data, directory)
    except (KeyError, ValueError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else error
        raise EngineDirectoryError(f"{path} is damaged ({problem}): {REBUILD}") from error


def damage(engine: EngineInfo) -> str:
    """What is wrong with the first file that is missing, has another size than when it was built or is no JSON in spite
    of its name; empty: nothing.

    Takes next to no time, and so compares no hashes."""
    for name, info in engine.files.items():
        path = engine.path / name
        if not path.is_file():
            return f"{path} is missing"
        size = path.stat().st_size
        if size != info.size and name not in EDITABLE:
            return f"{path} has {size} bytes instead of {info.size}"
        if path.suffix == ".json" and (why := _no_object(path)):
            return f"{path} is not a JSON object ({why})"
    return ""


def _no_object(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return str(error)
    return "" if isinstance(found, dict) else f"it begins with {str(found)[:20]!r}"


def end_ids(directory: Path) -> tuple[int, ...]:
    """Token ids that end an answer: ``eos_token_id`` of generation_config.json, else of config.json; often two.

    Empty when neither file names one. Raises ``EngineDirectoryError`` for a damaged file.
    """
    for path in (directory / "generation_config.json", directory / "config.json"):
        ids = _end_ids(path) if path.is_file() else ()
        if ids:
            return ids
    return ()


def adapters(directory: Path) -> list[str]:
    """Names of the LoRA adapters, ``directory/lora/<name>/adapter_config.json``, sorted."""
    return sorted(config.parent.name for config in (directory / LORA_DIR).glob("*/adapter_config.json"))


def _end_ids(path: Path) -> tuple[int, ...]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        listed = found if isinstance(found, list) else [] if found is None else [found]
        return tuple(int(token) for token in listed)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise EngineDirectoryError(f"{path} has no usable eos_token_id ({error}): {REBUILD}") from error


def _parse(data: dict[str, Any], directory: Path) -> EngineInfo:
    known = {f.name for f in dataclasses.fields(EngineInfo)} - {"path"}
    unknown = set(data) - known
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    for key in ("precision", "kv_dtype"):
        _require(key, data.get(key), str)
    for key in ("rope_scaling", "accuracy"):
        _require(key, data.get(key) or {}, dict)
    _require("files", data.get("files", {}), dict)
    return EngineInfo(
        model=_record(ModelInfo, "model", data["model"]),
        runtime=_record(RuntimeInfo, "runtime", data["runtime"]),
        precision=data["precision"],
        kv_dtype=data["kv_dtype"],
        limits=_record(EngineLimits, "limits", data["limits"]),
        gpu=_record(GpuInfo, "gpu", data["gpu"]) if data.get("gpu") else None,
        rope_scaling=data.get("rope_scaling"),
        files={name: _record(FileInfo, f"files.{name}", info) for name, info in data.get("files", {}).items()},
        accuracy=data.get("accuracy"),
        build=_record(BuildInfo, "build", data.get("build", {})),
        schema_version=data["schema_version"],
        path=directory,
    )


def _record(kind: type[Record], where: str, data: Any) -> Record:
    """One of the dataclasses above from JSON, its keys and types checked. Raises ``ValueError`` that names the key."""
    _require(where, data, dict)
    hints = get_type_hints(kind)
    unknown = set(data) - set(hints)
    if unknown:
        raise ValueError(f"{where} has unknown keys {sorted(unknown)}")
    optional = {item.name for item in dataclasses.fields(kind) if not _is_required(item)}  # type: ignore[arg-type]
    if missing := sorted(set(hints) - set(data) - optional):
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    for key, value in data.items():
        wanted = get_origin(hints[key]) or hints[key]
        _require(f"{where}.{key}", value, wanted)
        if wanted in (int, float) and value < 0:
            raise ValueError(f"{where}.{key} must not be negative, got {value}")
    return kind(**data)


def _is_required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _require(name: str, value: Any, kind: type) -> None:
    fits = isinstance(value, (int, float)) if kind is float else isinstance(value, kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name} must be {kind.__name__}, got {shown(value)}")
