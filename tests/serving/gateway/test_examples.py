"""Every example runs as its first line says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from contract.paths import ROOT
from tests.client.fake_triton import FakeTriton
from tests.serving.gateway.conftest import RunningGateway


def run(*command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "shown"), [("grpc_streaming", "32 tokens, finish_reason=length"), ("asyncio_fanout", "32 'w0")]
)
def test_grpc_examples(fake: FakeTriton, name: str, shown: str) -> None:
    assert shown in run(sys.executable, f"examples/{name}.py", fake.grpc)


def test_openai_sdk_example(gateway: RunningGateway) -> None:
    assert "w0 w1" in (out := run(sys.executable, "examples/openai_sdk.py", gateway.url)) and "11 + 32 tokens" in out
