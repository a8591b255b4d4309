"""JavaScript clients against the gateway: the ``openai`` npm package, the fetch example, and curl."""

from __future__ import annotations

import os
import subprocess

import pytest

from contract.paths import ROOT
from tests.conftest import Server

pytestmark = [pytest.mark.triton]


def run(*command: str, server: Server, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"GATEWAY": server.gateway + path}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.browser
def test_the_openai_npm_package(server: Server) -> None:
    done = run("node", "--test", "tests/serving/gateway/js/openai_client.test.mjs", server=server)
    assert done.returncode == 0, done.stdout + done.stderr
    server.wait_for(lambda: server.metric("qwen_slots_used") == 0, seconds=5)


@pytest.mark.browser
def test_the_fetch_example(server: Server) -> None:
    done = run("node", "examples/fetch_stream.mjs", "Say “hi” to me", server=server)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_curl_example(server: Server) -> None:
    done = run("sh", "examples/curl.sh", 'Say "hi" \\ to me', server=server)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("data: {") and done.stdout.rstrip().endswith("data: [DONE]")


def test_the_curl_example_shows_an_error_and_fails(server: Server) -> None:
    done = run("sh", "examples/curl.sh", "hi", server=server, path="/nowhere")
    assert done.returncode != 0
    assert '"error"' in done.stdout and "404" in done.stderr
