"""A guided answer that broke off in mid-object goes on where it was: the grammar is replayed (FP32, seeded)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest

from build_engine.openvino import build as openvino_build
from build_engine.spec import BuildSpec
from contract import engine_dir
from contract.errors import InvalidRequest, from_wire
from contract.sampling import Guide, GuideType, Sampling
from serving import runtimes
from serving.runtimes.base import EngineRequest, Runtime, RuntimeOptions, SequenceDelta
from tests.serving.runtimes.openvino.test_runtime import END, Collector

PROMPT = list(range(1000, 1020))
SCHEMA = {
    "type": "object", "required": ["name", "size"], "additionalProperties": False,
    "properties": {"name": {"type": "string", "maxLength": 12}, "size": {"type": "array", "items": {"type": "integer"},
                                                                           "maxItems": 4}},
}  # fmt: skip
GUIDES: list[tuple[GuideType, str]] = [
    ("json_schema", json.dumps(SCHEMA)),
    ("regex", "[a-z]{3}(-[0-9]{4}){5}"),
    ("ebnf_grammar", 'root ::= "a" [b-d]{20} "é"'),
    (
        "structural_tag",
        json.dumps(
            {
                "format": {
                    "type": "sequence",
                    "elements": [
                        {"type": "const_string", "value": "<tool_call>"},
                        {"type": "json_schema", "json_schema": SCHEMA},
                    ],
                }
            }
        ),
    ),
]
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Runtime, Collector]]:
    path = tmp_path_factory.mktemp("engine") / "e"
    openvino_build.build(BuildSpec("synthetic", "fp32", "openvino", path, context=512))
    collector = Collector()
    options = RuntimeOptions(max_streams=8, kv_cache_bytes=1 << 22)
    runtime = runtimes.load(engine_dir.read(path), options, collector.on_step, collector.on_death)
    yield runtime, collector
    runtime.close()


def answer(exact: tuple[Runtime, Collector], sampling: Sampling, resume: list[int]) -> list[SequenceDelta]:
    runtime, collector = exact
    number = next(NUMBERS)
    runtime.submit(EngineRequest(number, PROMPT, sampling, resume_ids=resume))
    collector.wait(number)
    return collector.deltas[number]


def ids(deltas: list[SequenceDelta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


@pytest.mark.parametrize(("kind", "guide"), GUIDES, ids=[kind for kind, _ in GUIDES])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_grammar_goes_on_where_it_was(
    exact: tuple[Runtime, Collector], kind: GuideType, guide: str, temperature: float
) -> None:
    sampling = Sampling(60, temperature=temperature, seed=3, guide=Guide(kind, guide), stop_token_ids=END, logprobs=3)
    whole = answer(exact, sampling, [])
    made = ids(whole)
    assert len(made) > 8
    for cut in (1, len(made) // 2, len(made) - 1):
        rest = answer(exact, sampling, made[:cut])
        assert ids(rest) == made[cut:] and rest[-1].finish_reason == whole[-1].finish_reason
        assert sum(d.counted for d in rest) == sum(d.counted for d in whole) - cut
        chosen, undisturbed = ([p for d in deltas for p in d.logprobs] for deltas in (rest, whole))
        assert chosen == pytest.approx(undisturbed[cut:], abs=1e-3)


def test_ids_that_break_the_grammar_are_refused(exact: tuple[Runtime, Collector]) -> None:
    deltas = answer(exact, Sampling(20, guide=Guide("regex", "[0-9]+"), stop_token_ids=END), [64, 65])
    error = from_wire(deltas[-1].error)
    assert isinstance(error, InvalidRequest) and str(error).startswith("resume_ids: "), error
