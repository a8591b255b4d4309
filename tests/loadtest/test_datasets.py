"""Recorded conversations and traces, in the forms that the field has them in."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from loadtest.errors import LoadtestError
from loadtest.plan import plan_from
from loadtest.prompts import NUMBER_TOKENS
from loadtest.scenarios.base import Request, request_number


def sharegpt(path: Path, count: int = 6) -> Path:
    """Conversation k has k + 1 turns; the first opens with the assistant, as some of ShareGPT's do."""
    rows = [
        {
            "id": str(k),
            "conversations": [{"from": "gpt", "value": "hello"}] * (k == 0)
            + [
                {"from": side, "value": f"{side} {k}.{turn} " + "word " * 30}
                for turn in range(k + 1)
                for side in ("human", "gpt")
            ],
        }
        for k in range(count)
    ]
    path.write_text(json.dumps(rows))
    return path


def sent(path: Path, count: int, **options: str) -> list[Request]:
    plan = plan_from({"scenario": str(path), "rate": "5"} | options)
    return [request_number(plan.load, number) for number in range(count)]


def test_conversations_without_a_word_are_left_out(tmp_path: Path) -> None:
    """Other tools drop them too; one of them refused the whole file."""
    path = sharegpt(tmp_path / "share.json", 2)
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([{"id": "x", "conversations": []}, *rows]))
    assert {request.messages[-1]["content"].split(".")[0] for request in sent(path, 4)} == {"human 0", "human 1"}


def test_sharegpt_is_asked_once_a_pass_with_its_own_history(tmp_path: Path) -> None:
    path = sharegpt(tmp_path / "share.json")
    first = sent(path, 12)
    asked = [request.messages[-1]["content"].split()[1].split(".")[0] for request in first]
    assert sorted(asked[:6]) == sorted(asked[6:]) == list("012345") and asked[:6] != asked[6:]
    for request in first:
        roles = [message["role"] for message in request.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"], "the answer to come is not told"
        assert 25 < request.max_tokens < 50 and request.scenario == "share"
    assert first == sent(path, 12) and first != sent(path, 12, seed="2")
    assert {request.max_tokens for request in sent(path, 6, output_tokens="9")} == {9}


def test_whole_conversations_by_a_file_of_ones_own(tmp_path: Path) -> None:
    sharegpt(tmp_path / "share.json")
    own = tmp_path / "own.toml"
    own.write_text('file = "share.json"\nturns = 3\nthink_s = 0.5\n')
    load = plan_from({"scenario": str(own), "users": "2"}).load
    assert load.turns == 3 and {len(load.conversation(k).turns) for k in range(4)} == {3, 4, 5, 6}
    second = load.conversation(0).request(1, ["what the server said"])
    assert second.messages[1] == {"role": "assistant", "content": "what the server said"}


def test_openai_lines_and_prompts(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    path.write_text("\n".join(map(json.dumps, [{"messages": chat}, {"prompt": "你好", "output_length": 7}])))
    plan = plan_from({"scenario": str(path)})
    assert str(plan.process) == "closed" and str(plan_from({"scenario": str(path), "rate": "2"}).process) == "poisson"
    requests = sorted(sent(path, 2), key=lambda request: request.max_tokens)
    assert [r.max_tokens for r in requests] == [7, 128] and list(requests[1].messages) == chat


@pytest.mark.parametrize(
    ("row", "lengths", "first"),
    [
        ({"prompt": "a", "output_tokens": 7}, {7}, "a"),  # vllm bench serve's custom
        ({"prompt": "a", "output_tokens_count": 7, "prompt_tokens_count": 3}, {7}, "a"),  # GuideLLM
        ({"text": "a", "output_length": 7}, {7}, "a"),  # AIPerf's single_turn
        ({"session_id": "s", "turns": [{"role": "system", "text": "b"}, {"text": "a"}, {"text": "c"}]}, {128}, "a"),
        ({"turns": [{"text": "a", "output_length": 7}, {"text": "c"}]}, {7}, "a"),
        ({"question_id": 81, "category": "writing", "turns": ["a", "c"]}, {128}, "a"),  # MT-Bench
    ],
)  # fmt: skip
def test_prompts_of_the_fields_tools(row: dict[str, Any], lengths: set[int], first: str, tmp_path: Path) -> None:
    """Of turns without recorded answers the first is asked, as vLLM's Spec-Bench does: the others need an answer."""
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(row) + "\n")
    requests = sent(path, 8)
    assert {request.max_tokens for request in requests} == lengths
    assert {request.messages[-1]["content"] for request in requests} == {first}
    if "turns" in row:
        (tmp_path / "own.toml").write_text('file = "own.jsonl"\nturns = 2\n')
        load = plan_from({"scenario": str(tmp_path / "own.toml"), "users": "2"}).load
        assert load.conversation(0).request(1, ["x"]).messages[-2:] == (
            {"role": "assistant", "content": "x"},
            {"role": "user", "content": "c"},
        )


def test_a_trace_with_aiperfs_text(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 5, "text_input": "a", "output_length": 4}\n')
    (request,) = sent(path, 1, rate="")
    assert request.messages == ({"role": "user", "content": "a"},) and request.max_tokens == 4


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", "{}", "is not a list of conversations"), ("a.json", "[", "is not JSON"),
        ("a.json", "[]", "holds no"),
        ("a.json", '[{"id": 1}]', "conversation 1: no conversation of texts"),
        ("a.json", '[{"conversations": [{"from": "human", "value": 3}]}]', "no conversation of texts"),
        ("a.json", '[{"messages": [{"role": "tool", "content": "x"}]}]', "role 'tool' is not one of"),
        ("a.jsonl", '{"prompt": "x", "output_length": 0}', "a.jsonl:1: output_length must be"),
        ("a.jsonl", '{"prompt": "x", "output_tokens": "9"}', "a.jsonl:1: output_tokens must be"),
        ("a.jsonl", '{"custom_id": "1", "body": {}}', "a.jsonl:1: no conversation of texts"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": "a \\ud83d"}', r"a\.jsonl:2: '\\ud83d' is half a surrogate pair"),
        ("a.json", '[{"messages": [{"role": "user", "content": "\\ude00"}]}]', r"n 1: '\\ude00' is half a surrogate"),
        ("a.jsonl", '{"timestamp": 0, "output_length": 3, "prompt": "\\ud83d"}', r":1: '\\ud83d' is half a surrogate"),
        (
            "a.jsonl",
            '{"timestamp": 0, "output_length": 3, "messages": [{"role": "user", "content": "\\ud83d"}]}',
            r"a\.jsonl:1: '\\ud83d' is half a surrogate pair, which cannot be sent: remove it",
        ),
        ("a.jsonl", '{"timestamp": 0, "output_length": 3, "messages": []}', "needs messages, prompt or input_length"),
        ("a.jsonl", '{"prompt": "x"}\n{', "is not JSON"), ("b.json", None, "cannot read"),
        ("a.csv", "a,b\n1,2\n", "lacks the columns of a trace"), ("a.csv", "", "lacks the columns of a trace"),
        ("a.csv", "Timestamp,Request tokens,Response tokens\n1,x,3\n", "a.csv:2: time and tokens must be"),
        ("a.csv", "Timestamp,Request tokens,Response tokens\n1,2000000,3\n", "a.csv:2: time and tokens must be"),
        ("a.csv", "Timestamp,Request tokens,Response tokens\nnan,2,3\n", "a.csv:2: time and tokens must be"),
        ("a.json", "[" * 100_000, "nested too deeply: at most 100 levels"), ("a.jsonl", '{"prompt": "x"}\n{', "line 2"),
        ("a.jsonl", '{"timestamp": 0, "input_length": 1, "output_length": 3, "hash_ids": 5}', "must be a list, got 5"),
        ("a.jsonl", '{"timestamp": 0, "input_length": 1e10, "output_length": 3}', "from 0 to 1000000, got 1"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_line(name: str, text: str | None, says: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(LoadtestError, match=says) as told:
        plan_from({"scenario": str(tmp_path / name)})
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "times"),
    [
        (
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,GPT-4,472,18,490,API log\n"
            "6.5,ChatGPT,100,0,100,API log\n45,ChatGPT,1087,230,1317,API log\n",
            [0.0, 40.0],
        ),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,472,18\n"
            "2023-11-16 18:17:04.0319600,1087,230\n",
            [0.0, 0.052],
        ),
    ],
)
def test_csv_traces_of_the_field(text: str, times: list[float], tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    plan = plan_from({"scenario": str(path), "warmup": "0s", "language": "en"})
    assert list(plan.schedule()) == pytest.approx(times) and str(plan.process) == "trace"
    requests = [request_number(plan.load, number) for number in range(2)]
    assert [request.max_tokens for request in requests] == [18, 230]
    assert [round((len(r.messages[0]["content"]) - 12) / 4.88 + NUMBER_TOKENS) for r in requests] == [472, 1087]


@pytest.mark.parametrize("options", [{"input_tokens": "9"}, {"output_tokens": "9"}])
def test_what_a_trace_records_cannot_be_set(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"timestamp": 0, "prompt": "x", "output_length": 3}')
    with pytest.raises(LoadtestError, match=r"^\w+-tokens: .* is recorded and has its own"):
        plan_from({"scenario": str(path)} | options)


def test_prefixes_are_shared_and_long(tmp_path: Path) -> None:
    systems = [request.messages[0]["content"] for request in sent(Path("prefix"), 100, language="en")]
    assert len(set(systems)) == 8 and {round((len(text) - 12) / 4.88 + NUMBER_TOKENS) for text in systems} == {1000}
    assert len({text[:12] for text in systems}) == 8, "they differ from their start"
    own = tmp_path / "own.toml"
    own.write_text('base = "summarize"\nprefix_tokens = 300\nprefixes = 2\n')
    systems = [request.messages[0]["content"] for request in sent(own, 30, language="en")]
    assert len(set(systems)) == 2 and {round((len(text) - 12) / 4.88 + NUMBER_TOKENS) for text in systems} == {300}
    own.write_text("prefixes = 0\n")
    with pytest.raises(LoadtestError, match="prefixes = 0 must be a number from 1"):
        plan_from({"scenario": str(own)})


def test_azures_times_are_in_utc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without an offset in one file; and the night in which local clocks go back an hour."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    trace = tmp_path / "azure.csv"
    rows = ("2023-11-05 05:59:59.5", "2023-11-05 06:00:00+00:00", "2023-11-05 06:00:00.5000000")
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(f"{row},10,5\n" for row in rows))
    try:
        assert plan_from({"scenario": str(trace)}).load.times == (0.0, 0.5, 1.0)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '\ufeff{"prompt": "x\u2028y"}\r\n{"prompt": "z"}\r\n'),
        ("a.json", '\ufeff[{"messages": [{"role": "user", "content": "x\u2028y"}]}]'),
        ("a.jsonl", '\ufeff{"timestamp": 0, "prompt": "x\u2028y", "output_length": 3}\r\n'),
        ("a.toml", '\ufeffbase = "chat"\r\n'),
    ],
)
def test_what_an_editor_adds_changes_nothing(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    asked = {request.messages[-1]["content"] for request in sent(path, 2)}
    assert name == "a.toml" or "x\u2028y" in asked
