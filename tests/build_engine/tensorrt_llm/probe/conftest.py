"""The probe on the stand-in for TensorRT-LLM (the real thing needs a GPU)."""

from __future__ import annotations

import importlib

import pytest
from tokenizers import Tokenizer, decoders, models

from tests.serving.runtimes.tensorrt_llm.harness import STANDINS, WORD, forget, write_engine

WORDS = {"{": 901, '"a"': 902, ":": 903, "7": 904, "}": 905, "x": 906, WORD: 907}


@pytest.fixture
def standin(monkeypatch):
    monkeypatch.syspath_prepend(str(STANDINS))
    forget()
    control = importlib.import_module("tensorrt_llm.control")
    control.guided = {"regex": [904, 904, 151645], "json": [901, 902, 903, 904, 905, 151645]}
    yield control
    forget()


@pytest.fixture
def session(standin, tmp_path):
    made = []

    def start(backend="engine", worker=False, scoring=False):
        standin.worker_process = worker
        from build_engine.tensorrt_llm.probe.session import Session

        folder = tmp_path / str(len(made))
        engine = write_engine(folder, backend)
        tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="x"))
        tokenizer.decoder = decoders.Fuse()
        tokenizer.save(str(folder / "tokenizer.json"))
        made.append(Session(engine, scoring=scoring))
        return made[-1]

    yield start
    for one in made:
        one.close()
