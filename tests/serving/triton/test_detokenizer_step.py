"""The detokenizer runs in several processes: each may hold only what it needs."""

from __future__ import annotations

import subprocess
import sys

from contract.paths import ROOT

LOAD = """
import sys, types
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
import serving.triton.detokenizer_step
print(*sorted({"transformers", "tokenizers", "jinja2", "asyncio", "httpx2"} & sys.modules.keys()))
"""


def test_it_loads_no_tokenizer_library() -> None:
    """They cost 31 MiB and a second."""
    done = subprocess.run([sys.executable, "-c", LOAD], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
