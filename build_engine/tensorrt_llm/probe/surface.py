"""The names that the installed TensorRT-LLM, ModelOpt and command-line tools declare. Needs them, but no GPU.

A name that a class or function lacks is left out, so that a comparison reports it.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import subprocess
import textwrap
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from build_engine.tensorrt_llm.commands import CONVERT, QUANTIZE
from contract.errors import BuildError

Fields = dict[str, dict[str, str]]
Section = Fields | list[str]
MODELS = ("KvCacheConfig", "SchedulerConfig", "CudaGraphConfig", "ExtendedRuntimePerfKnobConfig", "TorchLlmArgs",
          "TrtLlmArgs")  # fmt: skip
METHODS = (
    "get_stats",
    "get_stats_async",
    "get_kv_cache_events",
    "get_kv_cache_events_async",
    "shutdown",
    "_check_health",
)
TOOLS = {
    "quantize.py": ("python3", str(QUANTIZE)),
    "convert_checkpoint.py": ("python3", str(CONVERT)),
    "trtllm-build": ("trtllm-build",),
}
ITERATION = ("__await__", "__aiter__", "__anext__", "__iter__", "__next__")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")
HELP_SECONDS = 300  # each tool imports TensorRT-LLM first


def tensorrt_llm() -> tuple[str, dict[str, Section]]:
    """Version and sections. Raises ``ImportError`` or ``AttributeError`` when it is not TensorRT-LLM at all."""
    root: Any = importlib.import_module("tensorrt_llm")
    arguments: Any = importlib.import_module("tensorrt_llm.llmapi.llm_args")
    sampling: Any = importlib.import_module("tensorrt_llm.sampling_params")
    results: Any = importlib.import_module("tensorrt_llm.executor.result")
    requests: Any = importlib.import_module("tensorrt_llm.llmapi.llm")
    found: dict[str, Section] = {name: _model_fields(getattr(arguments, name, None)) for name in MODELS}
    found["LLM.__init__"] = _parameters(root.LLM.__init__)
    found["LLM.generate_async"] = _parameters(root.LLM.generate_async)
    for name in ("SamplingParams", "GuidedDecodingParams"):
        found[name] = _dataclass_fields(getattr(sampling, name))
    found["CompletionOutput"] = sorted(_attributes(results.CompletionOutput))
    found["RequestOutput"] = sorted(_attributes(requests.RequestOutput))
    found["finish_reason"] = sorted(_literals(typing.get_type_hints(results.CompletionOutput).get("finish_reason")))
    found["methods"] = sorted(f"LLM.{name}" for name in METHODS if callable(getattr(root.LLM, name, None)))
    return str(root.__version__), found


def modelopt() -> tuple[str, dict[str, Section]]:
    """Version and sections of ModelOpt. Raises ``ImportError``."""
    root: Any = importlib.import_module("modelopt")
    quantization: Any = importlib.import_module("modelopt.torch.quantization")
    export: Any = importlib.import_module("modelopt.torch.export")
    return str(root.__version__), {
        "modelopt.torch.quantization.quantize": _parameters(quantization.quantize),
        "modelopt.torch.export.export_hf_checkpoint": _parameters(export.export_hf_checkpoint),
        "quantization configs": sorted(name for name in dir(quantization) if name.endswith("_CFG")),
    }


def tool_flags(command: Sequence[str]) -> set[str]:
    """The options that ``command --help`` lists. Raises ``BuildError`` when there is no such help."""
    text = " ".join(command)
    try:
        answer = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False, timeout=HELP_SECONDS)
    except OSError as error:
        raise BuildError(f"`{text}` cannot be started ({error.strerror})") from error
    except subprocess.TimeoutExpired:
        raise BuildError(f"`{text} --help` gave no answer within {HELP_SECONDS} s") from None
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["no output"])[-1]
        raise BuildError(f"`{text} --help` ended with exit code {answer.returncode}: {last[:150]}")
    return flags(answer.stdout)


def flags(help_text: str) -> set[str]:
    return set(FLAG.findall(help_text)) - {"--help"}


def _model_fields(kind: Any) -> Fields:
    fields = kind.model_fields if kind is not None else {}
    return {
        name: {"type": _named(field.annotation), "default": "required" if field.is_required() else repr(field.default)}
        for name, field in fields.items()
    }


def _dataclass_fields(kind: Any) -> Fields:
    return {
        field.name: {"type": _named(field.type), "default": _default(field.default)}
        for field in dataclasses.fields(kind)
    }


def _parameters(function: Any) -> Fields:
    parameters = inspect.signature(function).parameters.values()
    return {
        ("**" if item.kind is item.VAR_KEYWORD else "") + item.name: {
            "type": _named(item.annotation), "default": _default(item.default)
        }
        for item in parameters if item.name != "self"
    }  # fmt: skip


def _default(value: Any) -> str:
    return "required" if value in (inspect.Parameter.empty, dataclasses.MISSING) else repr(value)


def _named(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _attributes(kind: type) -> set[str]:
    """The names of an instance: those of its class, and whatever its methods assign to ``self``."""
    found = {name for name in dir(kind) if not name.startswith("_") or name in ITERATION}
    found |= set(getattr(kind, "__dataclass_fields__", ()))
    for base in kind.__mro__[:-1]:
        found |= set(_assigned(base))
    return found


def _assigned(kind: type) -> Iterator[str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError):  # built in, or compiled
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Store) or node.attr.startswith("_"):
            continue
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.attr


def _literals(annotation: Any) -> set[str]:
    """The strings of a ``Literal``, wherever it stands in the annotation."""
    parts = typing.get_args(annotation)
    return {part for part in parts if isinstance(part, str)}.union(*map(_literals, parts)) if parts else set()
