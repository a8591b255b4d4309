"""The real Qwen2.5 tokenizer and an engine directory without weights, made once per run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer

from build_engine.synthetic import simulated
from contract import engine_dir
from contract.ack_table import AckTable
from contract.engine_dir import EngineInfo
from serving.detokenizer.text import TokenBytes
from serving.streaming.dispatcher import Dispatcher
from serving.tokenizer.prompt import PromptBuilder
from tests.serving.fakes import FakeDetokenizer, FakeRuntime
from tests.serving.rig import QUEUE, Rig

# Two cores are shared with whatever else runs: a deadline per example would test the neighbours.
settings.register_profile("serving", deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("serving")

CONTEXT = 512  # small, so that prompts beyond it are quick to make


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> EngineInfo:
    directory = tmp_path_factory.mktemp("engine") / "simulated"
    simulated.write(directory, CONTEXT)
    return engine_dir.read(directory)


@pytest.fixture(scope="session")
def tokenizer(engine: EngineInfo) -> Tokenizer:
    return Tokenizer.from_file(str(engine.path / "tokenizer.json"))


@pytest.fixture(scope="session")
def token_bytes(engine: EngineInfo) -> TokenBytes:
    return TokenBytes.load(engine.path / "tokenizer.json")


@pytest.fixture(scope="session")
def builder(engine: EngineInfo) -> PromptBuilder:
    return PromptBuilder(engine)


@pytest.fixture
def rig(ack_table: AckTable, tmp_path: Path, token_bytes: TokenBytes) -> Iterator[Rig]:
    dispatcher = Dispatcher(ack_table, tmp_path, token_bytes, QUEUE)
    runtime = FakeRuntime(dispatcher)
    dispatcher.attach(runtime)
    detokenizer = FakeDetokenizer(ack_table, tmp_path)
    thread = threading.Thread(target=dispatcher.run, daemon=True)
    thread.start()
    yield Rig(dispatcher, runtime, ack_table, detokenizer)
    dispatcher.stop()
    thread.join(5)
    detokenizer.close()
    assert not thread.is_alive()
    assert len(set(dispatcher.registry.slots)) == len(dispatcher.registry.slots), "a slot was returned twice"
