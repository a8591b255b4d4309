"""Whatever dies: open streams end with an error, readiness turns false, the launcher starts it anew or gives up."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from tritonclient.utils import InferenceServerException

from serving.launch.supervisor import LOGS
from tests.conftest import Server
from tests.triton.calls import Stream, ask
from tests.triton.processes import family, is_ready, run_dir, shared_memory, stub

pytestmark = pytest.mark.triton
OPEN_STREAMS = 8
ENDING_SECONDS = 5.0
RESTART_SECONDS = 90.0
LONG = {"text_input": "Hi", "max_tokens": 20_000, "stream": True}


def everything_ends(server: Server, streams: list[Stream], began: float) -> list[str]:
    """Readiness turns false; then the errors of all streams, none of them later than the promise."""
    server.wait_for(lambda: not is_ready(server), ENDING_SECONDS)  # first: a new Triton may be ready in two seconds
    errors = []
    for stream in streams:
        error = stream.answer(timeout=max(0.1, began + ENDING_SECONDS - time.monotonic())).error
        assert error is not None
        errors.append(str(error))
    return errors


def serves_again(server: Server) -> bool:
    try:
        return is_ready(server) and ask(server.grpc, text_input="Hi", max_tokens=2).completion_tokens == 2
    except InferenceServerException:
        return False


def open_streams(server: Server) -> list[Stream]:
    streams = [Stream(server.grpc) for _ in range(OPEN_STREAMS)]
    for stream in streams:
        stream.send(**LONG)
        stream.next()
    return streams


def test_every_death_ends_all_streams_and_the_fourth_is_one_too_many(own_server: Callable[..., Server]) -> None:
    """One server, four deaths: its engine's own, then its processes' by SIGKILL."""
    server = own_server("--runtime", "simulated", "--step-ms", "20", "--fault", "die@150", "--max-restarts", "3")
    directory, processes = run_dir(server), family(server)
    streams = open_streams(server)
    server.wait_for(lambda: "the engine died: the simulated engine died at step 150" in server.log.read_text(), 60)
    errors = everything_ends(server, streams, time.monotonic())
    assert all("engine: the simulated engine died at step 150; the server restarts it, try again" in e for e in errors)
    for number, model in enumerate(("engine", "detokenizer", "tokenizer"), 1):
        server.wait_for(lambda number=number: server.log.read_text().count("serving again") == number, RESTART_SECONDS)
        server.wait_for(lambda: serves_again(server), 10)
        processes += family(server)
        streams = open_streams(server)
        stub(server, model).kill()
        everything_ends(server, streams, time.monotonic())
    assert server.process.wait(30) == 1
    engine_log = (LOGS / f"triton-{server.http_port}.log").read_text(encoding="utf-8")
    assert engine_log.count("the engine died: the simulated engine died at step 150") == 1, "said once"
    last = server.log.read_text().splitlines()[-1]
    assert last.startswith("serve: 4 deaths in 600 s, giving up")
    server.wait_for(lambda: not [p for p in processes if p.is_running()], 10)
    assert not directory.exists() and not shared_memory(server)


def test_one_requests_error_is_its_own(own_server: Callable[..., Server]) -> None:
    """error@3: every third request fails in the engine; the others and the server do not."""
    server = own_server("--runtime", "simulated", "--step-ms", "5", "--fault", "error@3,eos@6")
    answers = [ask(server.grpc, text_input=f"Hi {i}", max_tokens=20, stream=i % 2 == 0) for i in range(9)]
    failed = [answer.error.message() for answer in answers if answer.error]
    assert len(failed) == 3 and all("engine: simulated fault" in message for message in failed)
    good = [answer for answer in answers if not answer.error]
    assert {(answer.finish, answer.completion_tokens) for answer in good} == {("stop", 7)}
    server.wait_for(lambda: server.metric("qwen_slots_used") == 0, 30)
