"""Adding a field takes one row and, in a runtime that honours it, one line: done here to a copy of the sources."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from contract.paths import ROOT

ROW = """    Field("warmth", "FP32", "made up for a test", 0.0, -1, 1, sampling=True, capability="warmth",
          aliases=("warm",), option=Option(), api=Api()),
"""
SCRIPT = """
import struct
from pathlib import Path
import pytest
from client import kserve
from client.types import Options
from contract.chunks import Job
from contract.errors import InvalidRequest, Unsupported
from serving.gateway.core import translate
from serving.gateway.schema.parse import parse
from serving.gateway.schema.protocol import ChatRequest
from serving.runtimes.base import CAPABILITIES, EngineRequest, RuntimeLimits
from serving.streaming.validation import fit
from serving.tokenizer.inputs import CheckpointDefaults, Inputs
from serving.tokenizer.request import job


class FakeRuntime:
    capabilities = frozenset({"warmth"})
    limits = RuntimeLimits(100, 80, 1000, 4)

    def submit(self, request):
        self.heard = request.sampling.warmth  # the one line of a runtime that honours it


def tensors(options):
    request = kserve.infer_request("1", "Hi", options, stream=False)
    raw = {t.name: data for t, data in zip(request.inputs, request.raw_input_contents)}
    return {"text_input": [b"Hi"], "warmth": struct.unpack("<f", raw["warmth"])}


def heard(values, runtime):
    parsed = Job.from_json(job(Inputs(values, checkpoint), checkpoint).to_json())
    runtime.submit(EngineRequest(1, [1], fit(parsed, [1], runtime)))
    return runtime.heard


checkpoint = CheckpointDefaults(1000, (7,), {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0})
runtime, without = FakeRuntime(), FakeRuntime()
without.capabilities = frozenset()
assert "warmth" in CAPABILITIES
assert heard(tensors(Options(warmth=0.25)), runtime) == 0.25
assert heard({"warm": [0.5]}, runtime) == 0.5
assert heard({}, runtime) == 0.0 and heard({"warmth": [0.0]}, without) == 0.0
body = {"messages": [{"role": "user", "content": "Hi"}], "warmth": -0.5}
assert heard(tensors(translate.chat(parse(ChatRequest, body)).options), runtime) == -0.5
with pytest.raises(InvalidRequest, match="^warm: 2 is out of range; give a number between -1 and 1"):
    heard({"warm": [2.0]}, runtime)
with pytest.raises(InvalidRequest, match="^warm: given beside warmth"):
    heard({"warmth": [0.1], "warm": [0.1]}, runtime)
with pytest.raises(Unsupported, match="^warmth: the loaded engine cannot honour it"):
    heard({"warmth": [0.1]}, without)
for name in ("qwen", "tokenizer"):
    config = Path("model_repository", name, "config.pbtxt").read_text()
    assert '"warmth" data_type: TYPE_FP32 dims: [1]' in config and '"warm" data_type' in config
assert "`warmth`" in Path("docs/fields.md").read_text()
print("travelled")
"""


def run(directory: Path, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_row_takes_a_field_from_the_client_and_the_gateway_to_a_runtime(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "static")
    for name in ("contract", "client", "serving", "model_repository", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("pyproject.toml", "versions.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    table = tmp_path / "contract" / "fields.py"
    table.write_text(table.read_text().replace('    Field("seed"', ROW + '    Field("seed"', 1))
    run(tmp_path, "-m", "contract.generate")
    assert run(tmp_path, "-c", SCRIPT) == "travelled\n"
