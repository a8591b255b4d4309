"""Every figure beside the truth: a server with known times, and answers in every form that servers send."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from loadtest.errors import LONGEST
from loadtest.scenarios.base import Request
from loadtest.stats import quantile
from loadtest.transports.sse import SseTransport
from tests.loadtest.answer import ITL, TTFT
from tests.loadtest.mock import Mock, Result, loadtest, started
from tests.loadtest.scripts import SCRIPTS

WHOLE = (
    "plain", "counted", "several", "several_counted", "empty_first", "reasoning", "tools", "comments", "crlf", "split",
    "burst", "one_message", "pause", "no_usage", "null_error", "no_done", "until_close", "left_open",
    "vllm", "llama_cpp", "ollama", "zeros", "prompt_only", "deepseek", "characters", "mistral",
    "http_1_0", "slow_head", "nulls", "fields", "packed", "held", "loose", "strings", "marked", "odd_reason",
    "reset_last",
)  # fmt: skip
FAILED = {
    "error_midway": "engine_dead", "error_text": "internal_error", "cut": "cut_short", "cut_politely": "cut_short",
    "hang": "timeout", "endless": "timeout", "nothing": "empty", "busy": "queue_full",
    "unavailable": "engine_unavailable", "whole": "not_a_stream", "page": "not_a_stream",
    "packed_error": "queue_full", "garbled": "protocol", "no_http": "protocol", "reset_first": "connect",
    "closed_first": "connect", "reset_after_head": "cut_short", "too_short": "cut_short", "moved": "internal_error",
    "error_event": "engine_unavailable", "error_words": "protocol", "error_reason": "engine_unavailable",
    "whole_error": "internal_error", "detail": "invalid_request", "error_object": "engine_unavailable",
    "shapeless": "protocol", "busy_until_close": "engine_unavailable", "error_until_close": "internal_error",
    "no_events": "not_a_stream", "error_unprintable": "c 31m", "packed_badly": "protocol", "numbers": "protocol",
}  # fmt: skip


class Scripted:
    """One run of all scripts, 40 ms apart, and what the server says of it."""

    def __init__(self, run: Result, truth: list[dict[str, Any]]) -> None:
        names = list(SCRIPTS)
        self.run = run
        self.records = {names[row["index"]]: row for row in run.requests}
        self.truth = {row["script"]: row for row in truth}


@pytest.fixture(scope="module")
def server() -> Iterator[Mock]:
    with started(server="script_server") as one:
        yield one


@pytest.fixture(scope="module")
def scripted(server: Mock, tmp_path_factory: pytest.TempPathFactory) -> Scripted:
    directory = tmp_path_factory.mktemp("scripted")
    lines = [
        {"timestamp": 40 * k, "prompt": name, "output_length": 40 if name.startswith("several") else 10}
        for k, name in enumerate(SCRIPTS)
    ]
    trace = directory / "scripts.jsonl"
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ports = ("--gateway-port", str(server.gateway), "--metrics-port", str(server.gateway))
    window = ("--duration", "4s", "--warmup", "0s", "--timeout", "1500ms")
    run = loadtest(directory, "--scenario", str(trace), "--transport", "sse", *ports, *window)
    return Scripted(run, server.get("/truth"))


def test_all_scripts_are_covered() -> None:
    assert set(WHOLE) | set(FAILED) == set(SCRIPTS)


@pytest.mark.parametrize("script", WHOLE)
def test_a_whole_answer_is_whole_and_every_token_counts(scripted: Scripted, script: str) -> None:
    record, sent = scripted.records[script], scripted.truth[script]["sent"]
    assert (record["outcome"], record["error"]) == ("completed", "")
    assert record["completion_tokens"] == sum(tokens for *_, tokens in sent)
    assert record["messages"] == (10 if script == "burst" else len(sent))
    assert record["counted"] == (script not in ("no_usage", "no_done"))


@pytest.mark.parametrize("script", WHOLE)
def test_ttft_and_tpot_follow_from_the_times(scripted: Scripted, script: str) -> None:
    record, truth = scripted.records[script], scripted.truth[script]
    assert record["ttft_s"] >= truth["sent"][0][0] - truth["arrived"] - SLACK
    count = record["completion_tokens"]
    if script in ("burst", "one_message"):
        assert record["tpot_s"] is None, "all tokens at once say nothing about the time of one"
    else:
        span = record["t_last"] - record["t_first"]
        assert record["tpot_s"] == pytest.approx(span / (count - 1), abs=2e-6)


def test_times_are_those_of_the_server(scripted: Scripted) -> None:
    """The first and last token arrived when they were sent.

    The kernel stamps a read with its last packet (``loadtest.transports.arrival``). So on a busy machine, where a read
    may find the next packet there already, a few spans are wrong by about what the reader was late.
    """
    wrong = {}
    for script in WHOLE:
        record, sent = scripted.records[script], scripted.truth[script]["sent"]
        span = record["t_last"] - record["t_first"]
        least, most = sent[-1][0] - sent[0][1], sent[-1][1] - sent[0][0]
        wrong[script] = max(least - span, span - most, 0.0)
    assert max(wrong.values()) < 0.25, wrong
    assert sum(error > SLACK for error in wrong.values()) <= len(WHOLE) // 4, wrong


SLACK = 0.002


@pytest.mark.parametrize(("script", "kind"), FAILED.items())
def test_each_way_to_fail_has_its_name(scripted: Scripted, script: str, kind: str) -> None:
    record = scripted.records[script]
    assert (record["outcome"], record["error_kind"]) == ("failed", kind), record["error"]
    assert len(record["error"]) <= LONGEST and record["error"].isprintable()


def test_the_run_adds_up(scripted: Scripted) -> None:
    summary = scripted.run.summary
    total = summary["total"]
    assert total["counts"]["completed"] == len(WHOLE) and total["counts"]["failed"] == len(FAILED)
    sent = [tokens for row in scripted.truth.values() for *_, tokens in row["sent"]]
    late = sum(tokens for *_, tokens in scripted.truth["endless"]["sent"])  # some of these come after the time-out
    assert sum(sent) - late <= total["counts"]["window_tokens"] <= sum(sent), "also those that no message counted"
    assert total["tokens_per_s"] == total["counts"]["window_tokens"] / 4
    assert total["latency"]["ttft"]["count"] == len(WHOLE)
    exact = [row["ttft_s"] for row in scripted.run.requests if row["outcome"] == "completed"]
    for percent in (50, 90, 99):
        assert total["latency"]["ttft"][f"p{percent}"] == pytest.approx(quantile(exact, percent), rel=2e-4)
    notes = " ".join(summary["notes"])
    assert f"2 of {len(SCRIPTS)} requests had not ended" in notes
    assert f"2 of {len(WHOLE)} answers came in one piece" in notes
    assert "tokens of 2 answers" in notes
    assert summary["error_examples"]["queue_full"] == "HTTP 429: slow down" in scripted.run.output


def test_a_busy_generator_does_not_make_the_server_slow(server: Mock) -> None:
    """Each message keeps the whole loop busy for 10 ms; its arrival is still the server's time."""
    stamps: list[float] = []

    def busy(stamp: float, tokens: int) -> bool:
        stamps.append(stamp)
        time.sleep(0.01)
        return True

    transport = SseTransport("127.0.0.1", server.gateway, "scripted", timeout=5, ignore_eos=False)
    end = transport.stream(Request(({"role": "user", "content": "plain"},), 10, 1), busy)
    transport.close()
    sent = [row for row in server.get("/truth") if row["script"] == "plain"][-1]["sent"]
    late = sorted(stamp - after for stamp, (_, after, _) in zip(stamps, sent, strict=True))
    assert end.completion_tokens == 10 and late[len(late) // 2] < SLACK
    assert (stamps[-1] - stamps[0]) / 9 == pytest.approx(ITL, rel=0.3) and TTFT > 0
