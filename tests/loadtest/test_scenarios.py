"""Scenarios are numbered lists: the same for a seed, different otherwise, whatever the number of workers."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from loadtest.errors import LoadtestError
from loadtest.plan import RunPlan, parse_duration, plan_from
from loadtest.prompts import NUMBER_TOKENS, corpus
from loadtest.scenarios import SCENARIOS, load_scenario
from loadtest.scenarios.base import Request, ScenarioSettings, request_number

CHINESE = re.compile("[\u4e00-\u9fff]")


def requests(name: str, count: int = 40, **settings: object) -> list[Request]:
    scenario = load_scenario(name, ScenarioSettings(**settings))
    return [request_number(scenario, number) for number in range(count)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_seed_fixes_every_request(name: str) -> None:
    assert requests(name, seed=3) == requests(name, seed=3)
    assert requests(name, seed=3) != requests(name, seed=4)
    assert all(r.max_tokens >= 1 and r.messages[-1]["role"] == "user" for r in requests(name))


def test_chat_shares_its_system_prompt_and_grows_turn_by_turn() -> None:
    first = requests("chat", 4, language="en")
    assert [len(r.messages) for r in first] == [2, 4, 6, 8]
    assert [m["role"] for m in first[2].messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert len({r.messages[0]["content"] for r in requests("chat", 40, language="en")}) == 1


def test_chat_takes_real_answers_in_a_closed_loop() -> None:
    conversation = load_scenario("chat", ScenarioSettings()).conversation(5)
    assert conversation.request(1, ["the server's own words"]).messages[2]["content"] == "the server's own words"


def test_both_languages_are_shipped() -> None:
    for language, wanted in (("en", 0), ("zh", 40)):
        texts = [r.messages[-1]["content"] for r in requests("chat", 40, language=language)]
        assert sum(bool(CHINESE.search(text)) for text in texts) == wanted
    mixed = [bool(CHINESE.search(r.messages[-1]["content"])) for r in requests("code", 60)]
    assert 10 < sum(mixed) < 50


def test_summarize_is_long_in_and_code_long_out() -> None:
    size = {
        name: sum(len(r.messages[-1]["content"]) for r in requests(name, language="en"))
        for name in ("summarize", "code")
    }
    output = {name: sum(r.max_tokens for r in requests(name)) for name in ("summarize", "code")}
    assert size["summarize"] > 10 * size["code"] and output["code"] > 3 * output["summarize"]


def test_mixed_keeps_its_weights() -> None:
    names = [r.scenario for r in requests("mixed", 500)]
    assert names.count("chat") / 500 == pytest.approx(0.6, abs=0.07)


def test_cancel_leaves_before_the_end() -> None:
    leaving = [r for r in requests("cancel", 300) if r.leave_after is not None]
    assert len(leaving) / 300 == pytest.approx(0.3, abs=0.08)
    assert all(r.leave_after is not None and r.leave_after < r.max_tokens for r in leaving)


def test_trace_replays_times_and_lengths(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [
        {"timestamp": 5000, "input_length": 1100, "output_length": 7, "hash_ids": [1, 2, 9]},
        {"timestamp": 7500, "input_length": 1100, "output_length": 8, "hash_ids": [1, 2, 8]},
        {"timestamp": 6000, "prompt": "你好", "output_length": 9},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    plan = plan_from({"scenario": str(path), "warmup": "0s", "language": "en"})
    assert plan.schedule() == (0.0, 1.0, 2.5)
    sent = [request_number(plan.load, k) for k in range(3)]
    assert [r.max_tokens for r in sent] == [7, 9, 8] and sent[1].messages[0]["content"] == "你好"
    first, last = (sent[k].messages[0]["content"] for k in (0, 2))
    shared = next(k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    assert shared >= 1024 * 4, "equal hash ids must give equal text"


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        '{"input_length": 9, "output_length": 3}',
        '{"timestamp": 1}',
        '{"timestamp": "x", "output_length": 3, "prompt": "a"}',
        "",
    ],
)
def test_bad_trace_is_one_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(LoadtestError, match=r"^trace: [^\n]+$"):
        plan_from({"scenario": str(path)})


def test_own_scenario_file(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('base = "summarize"\ninput_tokens = "200"\noutput_tokens = "uniform(5,9)"\ncancel_share = 1.0\n')
    drawn = requests(str(path), 20, language="en")
    assert all(5 <= r.max_tokens <= 9 and r.leave_after is not None for r in drawn)
    assert all(len(r.messages[-1]["content"]) < 1200 for r in drawn)


@pytest.mark.parametrize(
    "text",
    ["base = 'nope'", "colour = 3", "turns = 0", "input_tokens = 'x'", "cancel_share = 'a'", "[", "language = 'fr'"],
)
def test_bad_scenario_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(LoadtestError, match=r"^\w+: [^\n]+"):
        plan_from({"scenario": str(path)})


def test_prose_has_about_the_length_asked_for() -> None:
    for language in ("en", "zh"):
        texts = corpus(language, random.Random(1))
        text = texts.text(random.Random(2), 500)
        number, prose = text[:12], text[12:]  # the number has few letters to a token
        assert len(prose) == round((500 - NUMBER_TOKENS) * texts.chars_per_token) and number[0] + number[-1] == "[]"
        assert text[:20] != texts.text(random.Random(3), 500)[:20]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rate": "0"}, "rate"), ({"rate": "x"}, "rate"), ({"rate": "5", "arrivals": "closed"}, "rate"),
        ({"arrivals": "poisson"}, "rate"), ({"users": "0"}, "users"), ({"duration": "0"}, "duration"),
        ({"duration": "soon"}, "duration"), ({"transport": "smoke"}, "transport"), ({"language": "fr"}, "language"),
        ({"host": "ftp://x"}, "host"), ({"host": "::zz"}, "host"), ({"host": "[::zz]"}, "host"),
        ({"respect_eos": "maybe"}, "respect-eos"), ({"grpc_port": "99999"}, "grpc-port"),
        ({"arrivals": "trace"}, "arrivals"),
        ({"rate": "0.001", "duration": "1s"}, "rate"), ({"rate": "1", "duration": "10ms"}, "rate"),
        ({"requests": "0"}, "requests"), ({"requests": "1.5"}, "requests"), ({"requests": "5000001"}, "requests"),
        ({"requests": "61", "scenario": "trace"}, "requests"),
        ({"requests": "9", "rate": "5", "arrivals": "ramp"}, "duration"),
        ({"scenario": "caf\udce9.jsonl"}, "scenario"), ({"out": "caf\udce9"}, "out"),
        ({"scenario": "nope"}, "scenario"), ({"slo": "ttft=abc"}, "slo"), ({"input_tokens": "?"}, "input-tokens"),
    ],
)  # fmt: skip
def test_bad_options_name_themselves(options: dict[str, str], says: str) -> None:
    with pytest.raises(LoadtestError, match=rf"^{says}: [^\n]+$"):
        plan_from(options)


def test_plan_defaults_and_round_trip() -> None:
    plan = plan_from({"rate": "5", "host": "http://h/"})
    assert (str(plan.process), plan.host) == ("poisson", "h")
    assert str(plan_from({}).process) == "closed"
    assert str(plan_from({"scenario": "burst", "rate": "4"}).process) == "burst:16"
    assert RunPlan(**json.loads(json.dumps(plan.to_dict()))).schedule() == plan.schedule()


def test_profiles_warm_up_below_their_first_step() -> None:
    plan = plan_from({"rate": "40", "arrivals": "staircase:4", "warmup": "20s", "duration": "40s"})
    assert sum(t < 20 for t in plan.schedule()) == pytest.approx(200, rel=0.3)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1m30s", 90), ("2h", 7200), ("0.5s", 0.5), ("1500ms", 1.5), ("1m", 60), (7, 7)],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("name", ["chat", "summarize", "code"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_prompts_are_as_long_as_asked_for(name: str, language: str) -> None:
    per_token = corpus(language, random.Random(1)).chars_per_token
    for tokens in (5, 100, 1000):
        plan = plan_from({"rate": "5", "scenario": name, "language": language, "input_tokens": str(tokens)})
        lengths = [len(request_number(plan.load, k).messages[-1]["content"]) / per_token for k in range(0, 80, 4)]
        assert sum(lengths) / 20 == pytest.approx(tokens, abs=10), "the drawn number in front is few letters to a token"
