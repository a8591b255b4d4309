"""Every way out of a running stream gives its slot and KV blocks back, soon."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest
from tritonclient.utils import InferenceServerException

from tests.conftest import ROOT, Server
from tests.triton.calls import Stream, ask, generate, scalar
from tests.triton.test_streams import is_free

pytestmark = pytest.mark.triton
LONG = {"text_input": "Tell me a story", "max_tokens": 20_000, "stream": True}
GONE_SECONDS = 2.0 + 0.5  # the promise, and the metrics' own period of 0.25 s seen on a crowded machine

CLIENT = """
import sys, time
from tests.triton.calls import Stream
stream = Stream(sys.argv[1])
stream.send(text_input="Hi", max_tokens=20000, stream=True)
for _ in range(3): stream.next()
print("streaming", flush=True)
time.sleep(600)
"""

WAITER = """
import sys, time
from tests.triton.calls import Stream
stream = Stream(sys.argv[1])
stream.send(text_input="Hi", max_tokens=20000, stream=sys.argv[2] == "True")
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def nothing_runs(server: Server) -> Iterator[None]:
    """Before a test; after it Triton has let go of every request too, with all that it keeps for one."""
    server.wait_for(lambda: is_free(server), 10)
    before = kept(server)
    yield
    server.wait_for(lambda: is_free(server) and kept(server) == before, 10)


def kept(server: Server) -> int:
    """Twice the number of requests that Triton has not ended, whose memory is not free. It counts a failed one twice,
    for its error and for its end."""

    def counts(model: str) -> tuple[int, int]:
        with urllib.request.urlopen(f"{server.http}/v2/models/{model}/stats") as response:
            stats = json.load(response)["model_stats"][0]["inference_stats"]
        return int(stats["success"]["count"]), int(stats["fail"]["count"])

    (came, _), (answered, failed) = counts("tokenizer"), counts("qwen")
    return 2 * (came - answered) - failed


def finished(server: Server, reason: str) -> float:
    with urllib.request.urlopen(server.metrics) as response:
        found = re.search(rf'qwen_streams_finished_total{{.*reason="{reason}".*}} (\d+)', response.read().decode())
    return float(found[1]) if found else 0


def test_a_client_killed_in_mid_stream(server: Server) -> None:
    client = subprocess.Popen([sys.executable, "-c", CLIENT, server.grpc], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    before = finished(server, "disconnected")
    try:
        assert client.stdout is not None and client.stdout.readline() == "streaming\n"
        server.wait_for(lambda: server.metric("qwen_kv_blocks_used") > 0, 30)
    finally:
        client.kill()
        client.wait()
    assert server.wait_for(lambda: is_free(server), 10) < GONE_SECONDS
    assert finished(server, "disconnected") == before + 1


def test_an_http_client_that_hangs_up(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port)
    connection.request("POST", "/v2/models/qwen/generate_stream", json.dumps(LONG))
    assert connection.getresponse().readline().startswith(b"data: ")
    server.wait_for(lambda: server.metric("qwen_slots_used") == 1, 30)
    assert connection.sock is not None
    connection.sock.close()
    connection.close()
    assert server.wait_for(lambda: is_free(server), 10) < GONE_SECONDS


def test_tritonclients_own_cancellation(server: Server) -> None:
    with Stream(server.grpc) as stream:
        stream.send(**LONG)
        stream.next()
        server.wait_for(lambda: server.metric("qwen_slots_used") == 1, 30)  # else it may look free before it does not
    assert server.wait_for(lambda: is_free(server), 10) < GONE_SECONDS


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_killed_while_it_reads_nothing(server: Server, stream: bool) -> None:
    """It waits for a whole answer, or has stopped reading its stream."""
    client = subprocess.Popen([sys.executable, "-c", WAITER, server.grpc, str(stream)], cwd=ROOT)
    try:
        server.wait_for(lambda: server.metric("qwen_slots_used") == 1, 30)
    finally:
        client.kill()
        client.wait()
    assert server.wait_for(lambda: is_free(server), 10) < GONE_SECONDS


def test_a_whole_answer_that_takes_seconds_comes_whole(server: Server) -> None:
    """The probes of its request through Triton are no responses of it."""
    status, answer = generate(server.http, {"text_input": "Hi", "max_tokens": 150})
    assert (status, answer["completion_tokens"], answer["finish_reason"]) == (200, 150, "length")


def test_an_explicit_stop_answers_both_at_once(server: Server) -> None:
    """The best of five: the machine may be busy, the server is not."""
    seconds = []
    with Stream(server.grpc) as stream, Stream(server.grpc) as control:
        for number in range(5):
            stream.send(f"story{number}", **LONG)
            stream.next()
            start = time.monotonic()
            control.send(f"story{number}", stop=True)
            answer = stream.answer()
            seconds.append(time.monotonic() - start)
            assert answer.error is None and answer.finish == "cancelled"
            assert control.answer().finish == "cancelled"
    assert min(seconds) < 0.2, seconds
    assert server.wait_for(lambda: is_free(server), 10) < 1.5


def test_a_stop_on_the_streams_own_connection(server: Server) -> None:
    with Stream(server.grpc) as stream:
        stream.send("mine", **LONG)
        stream.next()
        stream.send("mine", stop=True)
        finishes = []
        while len(finishes) < 2:
            finish = scalar(stream.next(), "finish_reason")
            finishes += [finish] if finish else []
    assert finishes == ["cancelled", "cancelled"]


def test_a_stop_for_nobody_is_answered(server: Server) -> None:
    assert ask(server.grpc, request_id="never seen", stop=True).finish == "cancelled"


def test_an_unstreamed_request_can_be_stopped_and_answers_with_what_it_has(server: Server) -> None:
    with Stream(server.grpc) as stream:
        stream.send("quiet", text_input="Hi", max_tokens=20_000)
        server.wait_for(lambda: server.metric("vllm:num_requests_running") == 1, 30)
        ask(server.grpc, request_id="quiet", stop=True)
        answer = stream.answer()
    assert answer.finish == "cancelled" and answer.completion_tokens > 0 and answer.text


def test_a_timeout_ends_every_sequence_of_a_request(server: Server) -> None:
    with Stream(server.grpc) as stream:
        stream.send(timeout=400_000, num_return_sequences=4, **LONG | {"ignore_eos": True})
        with pytest.raises(InferenceServerException, match="deadline_exceeded"):
            while True:
                stream.next()


def test_a_timeout_ends_the_request_over_grpc(server: Server) -> None:
    with Stream(server.grpc) as stream:
        stream.send(timeout=400_000, **LONG | {"ignore_eos": True})
        answer = stream.answer()
        assert re.search(
            r"\[deadline_exceeded\] timeout: 400000 microseconds have passed after \d+ tokens", str(answer.error)
        )
        assert answer.in_order and answer.text and not answer.finish
        stream.send(timeout=60_000_000, text_input="Hi", max_tokens=3, stream=True)
        assert stream.answer().finish == "length"


def test_a_timeout_ends_the_request_over_http(server: Server) -> None:
    begun = time.monotonic()
    status, answer = generate(server.http, LONG | {"stream": False, "ignore_eos": True, "timeout": 400_000})
    assert status != 200 and "[deadline_exceeded] timeout: 400000 microseconds" in answer["error"]
    assert time.monotonic() - begun < 20
    status, answer = generate(server.http, {"text_input": "Hi", "max_tokens": 2, "timeout": "soon"})
    assert status == 400 and "timeout: 'soon' is not a time; give microseconds" in answer["error"]
    status, answer = generate(server.http, {"text_input": "Hi", "max_tokens": 2, "timeout": 60_000_000})
    assert status == 200 and answer["completion_tokens"] == 2
