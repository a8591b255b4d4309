"""The whole ensemble against ``transformers``: text in over HTTP, FP32 engine, the same greedy tokens out."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tokenizers import Tokenizer

from build_engine.openvino import build as openvino_build
from build_engine.spec import BuildSpec
from build_engine.synthetic import checkpoint as synthetic
from tests.conftest import ROOT, Server, start_server, stop_server
from tests.decoding import cut_text
from tests.oracle import expected

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(1800)]
MODEL = "synthetic"


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with an FP32 engine, run by the environment that users get: without torch."""
    home = tmp_path_factory.mktemp("ensemble")
    engine = openvino_build.build(BuildSpec(MODEL, "fp32", "openvino", home / "engine"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(ROOT / ".venv/bin/python"))
        server = start_server(home / "serve.log", "--engine", str(engine))
    yield server
    stop_server(server)


@pytest.fixture(scope="module")
def answers() -> list[list[int]]:
    checkpoint = synthetic.cached(MODEL)
    model = expected.load(checkpoint)
    return [expected.greedy(model, prompt, expected.TOKENS) for prompt in expected.prompts(checkpoint)]


def generate(server: Server, text: str) -> tuple[list[int], str]:
    greedy = {"temperature": 0.0, "repetition_penalty": 1.0, "ignore_eos": True}
    body = {"text_input": text, "max_tokens": expected.TOKENS, **greedy}
    request = urllib.request.Request(f"{server.http}/v2/models/qwen/generate", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=600) as response:
        answer = json.load(response)
    return answer["output_ids"], answer["text_output"]


@pytest.mark.parametrize("streams", [1, 16])
def test_greedy_tokens_through_the_ensemble(exact: Server, answers: list[list[int]], streams: int) -> None:
    tokenizer = Tokenizer.from_file(str(synthetic.cached(MODEL) / "tokenizer.json"))
    with ThreadPoolExecutor(streams) as pool:
        got = list(pool.map(lambda text: generate(exact, text), expected.texts()))
    assert [ids for ids, _ in got] == answers
    assert [text for _, text in got] == [cut_text(tokenizer, ids) for ids in answers]
