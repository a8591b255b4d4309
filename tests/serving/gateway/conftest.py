"""A gateway as its users run it (a process with two workers) in front of a fake Triton."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from contract import engine_dir
from contract.paths import ROOT
from tests.byte_tokenizer import byte_tokenizer
from tests.client.fake_triton import FakeTriton


@dataclass
class RunningGateway:
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


Start = Callable[..., RunningGateway]


def start_gateway(directory: Path, fake: FakeTriton, **environment: str) -> RunningGateway:
    """Start ``python -m serving.gateway`` on a free port and wait until it is ready."""
    log = directory / "gateway.log"
    settings = {
        "GATEWAY_PORT": "0", "GATEWAY_WORKERS": "2", "TRITON_GRPC": fake.grpc, "TRITON_METRICS": fake.metrics,
        "GATEWAY_DRAIN_SECONDS": "2", **environment,
    }  # fmt: skip
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.gateway"], env=os.environ | settings, stdout=file, stderr=file, cwd=ROOT
        )
    return RunningGateway(process, _wait(process, log), log)


def _wait(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        if found := re.search(r'"port":(\d+)', log.read_text()):
            url = f"http://127.0.0.1:{found.group(1)}"
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health/live", trust_env=False, verify=False).status_code == 200:
                    return url
        time.sleep(0.05)
    raise AssertionError(f"the gateway did not start: {log.read_text()}")


def tiny_engine(directory: Path) -> Path:
    """An engine directory whose tokenizer has one token per byte."""
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    config = {"eos_token": {"content": "~", "lstrip": False}, "chat_template": "{{ messages[0].content }}"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    engine_dir.write(
        engine_dir.EngineInfo(
            engine_dir.ModelInfo("qwen-tiny", "Qwen/Tiny", vocab_size=256), engine_dir.RuntimeInfo("simulated"),
            "fp32", "fp32", engine_dir.EngineLimits(max_seq_len=1024, max_input_len=1000),
        ),
        directory,
    )  # fmt: skip
    return directory


@pytest.fixture(scope="session")
def _fake() -> Iterator[FakeTriton]:
    triton = FakeTriton().start()
    yield triton
    triton.stop()


@pytest.fixture
def fake(_fake: FakeTriton) -> FakeTriton:
    """The fake behind ``gateway``, with clean records."""
    _fake.wait_free()
    _fake.requests.clear()
    _fake.ended.clear()
    _fake.metadata.clear()
    _fake.step_ms, _fake.busy, _fake.places, _fake.waiting, _fake.salted = 1.0, 0, 0, 12, 0
    return _fake


@pytest.fixture(scope="session")
def _gateway(_fake: FakeTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    directory = tmp_path_factory.mktemp("gateway")
    running = start_gateway(directory, _fake, ENGINE_DIR=str(tiny_engine(directory)), GATEWAY_KEEPALIVE_SECONDS="0.5")
    yield running
    running.stop()


@pytest.fixture
def gateway(_gateway: RunningGateway, fake: FakeTriton) -> RunningGateway:
    return _gateway


@pytest.fixture
def web(gateway: RunningGateway) -> Iterator[httpx.Client]:
    # Without TLS there is nothing to verify, and reading the CA certificates takes longer than most of these tests.
    with httpx.Client(base_url=gateway.url, trust_env=False, verify=False, timeout=20) as client:
        yield client


@pytest.fixture
def sdk(gateway: RunningGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def own_gateway(fake: FakeTriton, tmp_path: Path) -> Iterator[Start]:
    """Gateways that a test may configure or break."""
    started: list[RunningGateway] = []

    def start(**environment: str) -> RunningGateway:
        started.append(start_gateway(tmp_path, fake, **environment))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.stop()
