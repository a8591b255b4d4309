"""Inside Triton's Python stub: what an ``LLM`` finds there. The model that ``triton`` writes calls ``report``."""

from __future__ import annotations

import json
import os
import pwd
import sys
from pathlib import Path
from typing import Any

import psutil

from build_engine.tensorrt_llm.probe.session import Session
from contract import engine_dir
from serving.runtimes.tensorrt_llm import env


def report(engine: Path, output: Path) -> Session:
    """Load ``engine``, answer once, and write what was found to ``output`` immediately. Returns the open session."""
    facts: dict[str, Any] = {"uid": os.getuid(), "user": user(), "executable_before": sys.executable,
                             "mpi_before": env.mpi_names(os.environ)}  # fmt: skip
    try:
        session = Session(engine_dir.read(engine))
        tokens, reason = session.answer()
        children = [psutil.Process(pid).name() for pid in session.runtime.loaded.children if psutil.pid_exists(pid)]
        facts |= {"executable": sys.executable, "mpi": env.mpi_names(os.environ), "tokens": len(tokens),
                  "reason": reason, "children": children}  # fmt: skip
    except Exception as error:
        facts["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        partial = output.with_suffix(".partial")
        partial.write_text(json.dumps(facts), encoding="utf-8")
        partial.replace(output)
    return session


def user() -> str:
    """This user's name; empty for an id that the machine has no name for."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""
