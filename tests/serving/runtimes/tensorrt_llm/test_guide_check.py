"""Guides are enforced or refused: what the installation does with one is asked while it loads."""

from __future__ import annotations

import importlib

import pytest

from contract.errors import EngineDirectoryError
from serving.runtimes.base import GUIDES, RuntimeOptions
from serving.runtimes.tensorrt_llm.guide_check import WORD
from tests.serving.runtimes.tensorrt_llm import harness
from tests.serving.runtimes.tensorrt_llm.harness import END_OF_TEXT, ENGINE, TORCH, TORCH_14


def test_a_guide_that_is_kept_is_offered(start):
    started = start(*TORCH)
    assert started.runtime.capabilities >= GUIDES and WORD == harness.WORD


def test_guides_that_are_ignored_are_refused_by_name_and_the_rest_is_served(start, caplog):
    started = start(*TORCH, guides_ignored=True)
    assert not started.runtime.capabilities & GUIDES and "min_p" in started.runtime.capabilities
    [line] = [record.getMessage() for record in caplog.records if "guide" in record.getMessage()]
    assert "JSON schema, regex and grammar are refused" in line
    started.submit(1, [1])
    started.wait(1)


@pytest.mark.parametrize("kind", [ENGINE, TORCH_14])
def test_only_the_inferred_combination_is_asked(start, kind):
    assert start(*kind, guides_ignored=True).runtime.capabilities >= GUIDES


def test_nothing_is_asked_of_the_gates_engine(start):
    assert not start(*TORCH, guides_ignored=True, scoring=True).runtime.capabilities & GUIDES


@pytest.mark.parametrize("failure", ["errors", "die_at", "silent"])
def test_a_guided_request_that_fails(start, monkeypatch, tmp_path, failure):
    """One that is refused, or never answered, means no guides; one that ends the engine is an error of loading."""
    started = start(*TORCH)
    monkeypatch.setattr("serving.runtimes.tensorrt_llm.guide_check.ANSWER_S", 0.2)
    value = {"errors": {(END_OF_TEXT,): (0, "no grammar")}, "die_at": {(END_OF_TEXT,): 0}, "silent": True}[failure]
    monkeypatch.setattr(started.control, failure, value)
    create = importlib.import_module("serving.runtimes.tensorrt_llm.runtime").create
    engine = harness.write_engine(tmp_path / "second", *TORCH)
    if failure == "die_at":
        with pytest.raises(EngineDirectoryError, match="failed at a guided request"):
            create(engine, RuntimeOptions(), print, print)
        return
    runtime = create(engine, RuntimeOptions(), print, print)
    assert not runtime.capabilities & GUIDES
    runtime.close()
