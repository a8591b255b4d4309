"""The published surface as Python values."""

import inspect
import json
import os
from pathlib import Path

VERSION = os.environ.get("STANDIN_TRTLLM_VERSION", "1.2.1")
DATA = json.loads((Path(__file__).parents[2] / "data" / "tensorrt_llm_surface.json").read_text(encoding="utf-8"))
SURFACE = DATA[f"tensorrt_llm=={VERSION}"]


def section(name):
    """1.4's file lists only what changed for some classes: the rest is 1.2.1's."""
    return SURFACE[name] if name in SURFACE else DATA["tensorrt_llm==1.2.1"][name]


def default(text):
    """``"None -> generated"`` → None, ``"8192"`` → 8192, ``"'auto'"`` → 'auto'; classes become None."""
    value = text.split(" -> ")[0]
    literals = {"None": None, "True": True, "False": False, "{}": {}, "[]": []}
    if value in literals:
        return literals[value]
    try:
        return json.loads(value.replace("'", '"'))
    except ValueError:
        return None


def signature(name):
    """An ``inspect.Signature`` with ``self`` from the section ``name``."""
    kinds = inspect.Parameter
    found = [kinds("self", kinds.POSITIONAL_OR_KEYWORD)]
    for field, info in section(name).items():
        if field == "**kwargs":
            found.append(kinds("kwargs", kinds.VAR_KEYWORD))
        else:
            value = kinds.empty if info["default"] == "required" else default(info["default"])
            found.append(kinds(field, kinds.POSITIONAL_OR_KEYWORD, default=value))
    required = [p for p in found if p.default is kinds.empty and p.kind != kinds.VAR_KEYWORD]
    optional = [p for p in found if p.default is not kinds.empty]
    return inspect.Signature([*required, *optional, *(p for p in found if p.kind == kinds.VAR_KEYWORD)])


def declare(kind, name):
    """Names of the section ``name`` that ``kind`` does not act out, so that it has all of the published ones."""
    for entry in section(name):
        plain = entry.split(" ", 1)[-1].split("(")[0] if entry.startswith("(") else entry.removeprefix("LLM.")
        absent = isinstance(section(name), dict) and str(section(name)[entry]).startswith("absent")
        if not absent and plain.isidentifier() and not hasattr(kind, plain):
            setattr(kind, plain, (lambda self: None) if name == "methods" else None)
