"""What a loaded engine is asked, with planted differences."""

from __future__ import annotations

import json

import pytest

from build_engine.tensorrt_llm.probe import behaviour, findings
from build_engine.tensorrt_llm.probe.session import PROMPT
from contract import engine_dir


def statuses(found) -> dict[str, str]:
    return {finding.check: finding.status for finding in found}


@pytest.mark.parametrize("backend", ["engine", "pytorch"])
def test_a_package_as_recorded_passes(session, backend):
    found = statuses(behaviour.examine(session(backend), 8000))
    assert found.pop("a penalty acts") == "differs", "the stand-in knows no penalties: a planted difference"
    assert set(found.values()) == {"pass"} and len(found) >= 10, found


def test_guides_that_the_runtime_refuses_are_a_row(session, standin):
    standin.guides_ignored = True
    found = {row.check: row.status for row in behaviour.examine(session("pytorch"), 0)}
    assert found["guides"] == "differs" and "a regex is kept to" not in found


def test_a_guide_that_is_not_kept_to_is_a_failure(session, standin):
    standin.guided = {"regex": [904, 906, 151645], "json": [901, 906, 151645]}
    found = statuses(behaviour.examine(session(), 0))
    assert found["a regex is kept to"] == found["a JSON schema is kept to"] == "fail"


def test_the_beginning_of_an_object_is_enough_and_nothing_else(session):
    import re

    for text in ("{", '{"a', '{ "a": -', '{"a":12}\n', '{"a": 7'):
        assert re.fullmatch(behaviour.BEGINNING, text), text
    for text in ("", "x", '{"b', '{"a":x', '{"a": 7} more'):
        assert not re.fullmatch(behaviour.BEGINNING, text), text


def test_an_end_token_that_stays_in_the_answer_is_found(session, monkeypatch):
    """As if the adapter's reader did not know this TensorRT-LLM's way."""
    from serving.runtimes.tensorrt_llm.output_reader import OutputReader

    one = session("pytorch")
    plain, _ = one.answer()
    monkeypatch.setattr(OutputReader, "_ends", frozenset(), raising=False)
    take = OutputReader.take

    def careless(reader, result):
        reader._ends = frozenset()
        return take(reader, result)

    monkeypatch.setattr(OutputReader, "take", careless)
    found = statuses(behaviour.endings(one, plain))
    assert found["the end id ends an answer and is not in it"] == "fail"
    assert found["the end token in TensorRT-LLM's ids"] == "pass"


def test_an_engine_that_keeps_the_end_token_only_differs(session):
    one = session("engine")
    one.runtime.loaded.llm.executor.keeps_end = True
    plain, _ = one.answer()
    found = statuses(behaviour.endings(one, plain))
    assert found.pop("the end token in TensorRT-LLM's ids") == "differs" and set(found.values()) == {"pass"}


def test_statistics_without_the_keys_that_are_read_differ(session, monkeypatch):
    one = session()
    monkeypatch.setattr(type(one.runtime.loaded.llm), "get_stats", lambda self, timeout=2: [{"iter": 1}])
    finding = behaviour.statistics(one)
    assert finding.status == "differs" and "usedNumBlocks" in finding.found


def test_a_hanging_abort_is_found(session, standin, monkeypatch):
    monkeypatch.setattr("serving.runtimes.tensorrt_llm.core.DRAIN_S", 1.5)
    standin.hang_on_abort = True
    assert behaviour.abort(session()).status == "differs"


def test_failing_answers_are_a_failure(session, standin):
    standin.errors[PROMPT] = (0, "CUDA error")
    [finding] = behaviour.examine(session(), 0)
    assert finding.status == "fail" and "CUDA error" in finding.found


@pytest.mark.parametrize(
    ("scoring", "expected", "status"),
    [(True, 5, "pass"), (False, 1, "pass"), (False, 5, "fail"), (True, 1, "differs")],
)
def test_log_probabilities_are_counted_with_both_samplers(session, scoring, expected, status):
    """Serving uses ``TRTLLMSampler``, which gives one entry; the gate uses the default sampler, which gives all."""
    assert behaviour.entries(session("pytorch", scoring=scoring), 5, expected).status == status


@pytest.mark.parametrize("streams", [0, 3])
def test_a_killed_worker(session, standin, streams):
    finding = behaviour.death(session(worker=True), streams)
    standin.llms[-1].worker.release()
    assert finding.status == "pass" and "worker process" in finding.found


def test_rows_that_were_found_outlive_a_failure(session, monkeypatch, tmp_path):
    one = session()
    engine_dir.write(one.engine, one.engine.path)
    monkeypatch.setattr(behaviour, "Session", lambda engine, scoring: one)
    monkeypatch.setattr(behaviour, "statistics", lambda session: 1 / 0)
    assert behaviour.main(["--engine", str(one.engine.path), "--output", str(tmp_path / "rows.json")]) == 0
    found = findings.read(tmp_path / "rows.json")
    assert len(found) > 5 and "ZeroDivisionError" in found[-1].found and found[-1].status == "fail"
    assert json.loads((tmp_path / "rows.json").read_text())[0]["check"] == "answers"
