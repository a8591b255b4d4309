"""The names an installed TensorRT-LLM declares, beside those recorded in ``tests/data``. ``make facts``."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from build_engine.tensorrt_llm.commands import CONVERT, QUANTIZE
from build_engine.tensorrt_llm.probe.findings import ProbeResult, judged
from contract.paths import ROOT

Fields = dict[str, dict[str, str]]
SURFACE, FLAGS = ROOT / "tests/data/tensorrt_llm_surface.json", ROOT / "tests/data/trtllm_flags.json"
MODELS = ("KvCacheConfig", "SchedulerConfig", "CudaGraphConfig", "ExtendedRuntimePerfKnobConfig", "TorchLlmArgs",
          "TrtLlmArgs")  # fmt: skip
TOOLS = {
    "quantize.py": ("python3", str(QUANTIZE)),
    "convert_checkpoint.py": ("python3", str(CONVERT)),
    "trtllm-build": ("trtllm-build",),
}
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")


def installed() -> tuple[str, dict[str, Fields]]:
    """Version and surface of the TensorRT-LLM of this Python; a class that it lacks has no fields."""
    root = importlib.import_module("tensorrt_llm")
    arguments: Any = importlib.import_module("tensorrt_llm.llmapi.llm_args")
    sampling: Any = importlib.import_module("tensorrt_llm.sampling_params")
    found = {name: _model_fields(getattr(arguments, name, None)) for name in MODELS}
    found["LLM.generate_async"] = _parameters(root.LLM.generate_async)
    for name in ("SamplingParams", "GuidedDecodingParams"):
        found[name] = _parameters(getattr(sampling, name))
    return str(root.__version__), found


def _model_fields(kind: Any) -> Fields:
    fields = kind.model_fields if kind is not None else {}
    return {name: {"type": str(field.annotation), "default": _default(field)} for name, field in fields.items()}


def _default(field: Any) -> str:
    return "required" if field.is_required() else repr(field.default)


def _parameters(function: Any) -> Fields:
    empty = inspect.Parameter.empty
    return {
        name: {"type": str(item.annotation), "default": "required" if item.default is empty else repr(item.default)}
        for name, item in inspect.signature(function).parameters.items()
        if name != "self" and not name.startswith("_")
    }


def flags(help_text: str) -> set[str]:
    return set(FLAG.findall(help_text))


def help_of(command: Sequence[str]) -> str:
    answer = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    return answer.stdout + answer.stderr


def compare_fields(recorded: Mapping[str, Any], found: Mapping[str, Fields]) -> Iterator[ProbeResult]:
    """A name that is gone breaks what passes it; a new one only differs."""
    for section, fields in found.items():
        known = {name for name in recorded.get(section, {}) if not name.startswith(("_", "**"))}
        yield _difference(section, known, set(fields))


def compare_flags(recorded: Mapping[str, Sequence[str]], found: Mapping[str, set[str]]) -> Iterator[ProbeResult]:
    for tool, names in found.items():
        yield _difference(tool, set(recorded[tool]), names - {"--help"})


def _difference(name: str, known: set[str], found: set[str]) -> ProbeResult:
    gone, new = sorted(known - found), sorted(found - known)
    if gone:
        text = f"{len(gone)} names of ours are missing: {', '.join(gone[:6])}"
        return ProbeResult(
            f"surface of {name}", "fail", text, "use the container pinned in versions.toml, or send probe.json"
        )
    return judged(f"surface of {name}", not new, f"{len(new)} new names: {', '.join(new[:6])}" if new
                  else f"{len(found)} names as recorded", "none: `make facts` records them", breaks=False)  # fmt: skip


def examine() -> list[ProbeResult]:
    version, found = installed()
    recorded = json.loads(SURFACE.read_text(encoding="utf-8"))
    nearest = recorded.get(f"tensorrt_llm=={version}", recorded["tensorrt_llm==1.2.1"])
    helps = {tool: flags(help_of(command)) for tool, command in TOOLS.items()}
    return [
        *compare_fields(nearest, found),
        *compare_flags(json.loads(FLAGS.read_text(encoding="utf-8")), helps),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """``make facts``: write the installed surface and flags into ``--output``, laid out as ``tests/data``."""
    parser = argparse.ArgumentParser(prog="python3 -m build_engine.tensorrt_llm.probe.surface", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    output = parser.parse_args(argv).output
    output.mkdir(parents=True, exist_ok=True)
    version, found = installed()
    helps = {tool: sorted(flags(help_of(command))) for tool, command in TOOLS.items()}
    for path, data in ((SURFACE, {f"tensorrt_llm=={version}": found}), (FLAGS, {"_source": version, **helps})):
        target = output / path.name
        target.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{target}: TensorRT-LLM {version}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
