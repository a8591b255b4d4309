"""The whole ensemble on the real Triton, TensorRT-LLM's place taken by the stand-in: requests, refusals, cancel.

What it shows: the adapter inside Triton's Python stub, its capabilities reaching the caller, the launcher's check of
the machine. What it cannot show: anything of the GPU.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from build_engine import tokenizer_files
from contract import engine_dir
from tests.conftest import Server, start_server, stop_server
from tests.serving.runtimes.tensorrt_llm.test_runtime import STANDINS, write_engine

pytestmark = pytest.mark.triton
H100 = "NVIDIA H100 80GB HBM3, 81559, 80000, 9.0, 590.44.01"


@pytest.fixture(scope="module")
def trtllm(tmp_path_factory) -> Iterator[Server]:
    """`make serve` of an engine directory, on a machine that claims an H100."""
    folder = tmp_path_factory.mktemp("trtllm")
    engine = write_engine(folder / "engine", "engine")
    config = json.loads((folder / "engine" / "config.json").read_text())
    tokenizer_files.write(folder / "engine")
    (folder / "engine" / "config.json").write_text(json.dumps({**config, "vocab_size": 152064}))
    engine_dir.write(engine, folder / "engine")
    python = environment_with_standin(folder / "venv")
    tools = script(folder, "nvidia-smi", f"echo {H100!r}").parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        patch.setattr(sys, "executable", str(python))
        running = start_server(folder / "serve.log", "--engine", str(folder / "engine"), gateway=True)
    yield running
    stop_server(running)


def environment_with_standin(folder: Path) -> Path:
    """A virtual environment that has ours and the stand-in. Triton's stub ignores PYTHONPATH but finds this by PATH."""
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (site / "standin.pth").write_text("\n".join([str(STANDINS), *ours]) + "\n")
    pointer = Path(sys.prefix) / "libpython.path"
    if pointer.is_file():
        shutil.copyfile(pointer, folder / "libpython.path")
    return folder / "bin" / "python3"


def script(folder: Path, name: str, line: str) -> Path:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def chat(trtllm) -> Callable[..., httpx.Response]:
    def ask(**fields) -> httpx.Response:
        body = {"model": "qwen2.5-7b-instruct", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 12}
        return httpx.post(f"{trtllm.gateway}/v1/chat/completions", json=body | fields, timeout=60)

    return ask


def test_an_answer_counts_its_tokens(chat):
    answer = chat(temperature=0).json()
    assert answer["usage"]["completion_tokens"] == 12 and answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"]


def test_streaming_gives_the_same_text(chat):
    whole = chat(temperature=0).json()["choices"][0]["message"]["content"]
    events = [line[6:] for line in chat(temperature=0, stream=True).text.splitlines() if line.startswith("data: {")]
    parts = [json.loads(event)["choices"] for event in events]
    assert "".join(choice["delta"].get("content") or "" for choices in parts for choice in choices) == whole


def test_what_an_engine_cannot_honour_is_refused_and_named(chat):
    refused = chat(logprobs=True, top_logprobs=2)
    assert refused.status_code == 400 and "logprobs" in refused.json()["error"]["message"]


def test_a_schema_and_penalties_are_accepted(chat):
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    assert chat(response_format=schema).status_code == 200
    assert chat(frequency_penalty=0.5, presence_penalty=0.1, seed=3).status_code == 200


def test_a_client_that_leaves_frees_its_slot(trtllm, chat):
    body = {"model": "qwen2.5-7b-instruct", "messages": [{"role": "user", "content": "long"}], "max_tokens": 8000}
    url = f"{trtllm.gateway}/v1/chat/completions"
    with httpx.stream("POST", url, json=body | {"stream": True}, timeout=60) as response:
        lines = response.iter_lines()  # kept: dropping it closes the connection
        next(lines)
        trtllm.wait_for(lambda: trtllm.metric("qwen_slots_used") == 1, 10)
    trtllm.wait_for(lambda: trtllm.metric("qwen_slots_used") == 0, 15)
