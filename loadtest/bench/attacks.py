"""The attack matrix of `make bench-isolation`: each is what one client may send within, or just beyond, the limits.

    python -m loadtest.bench.attacks NAME GRPC_PORT GATEWAY_PORT     one attack; prints what the attacker got

An attack runs in a niced session of its own, so that making it slows neither the measurement nor the server.
To add one: a function, and its name in ``ATTACKS``.
"""

from __future__ import annotations

import collections
import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from client import Client, ClientError, Options
from client.kserve import CHANNEL_OPTIONS, add_tensor
from client.types import NO_RETRY
from contract.errors import from_wire

MOST_TOKENS = 32
LARGE_FILE = "/static/vendor/temml.js"  # of the chat page
HELD_S = 10.0  # connections are held open for this long


@dataclass(frozen=True, slots=True)
class Doors:
    """Ports of the server under attack."""

    grpc: int
    gateway: int

    def client(self) -> Client:
        return Client(f"127.0.0.1:{self.grpc}", retry=NO_RETRY)


def counted(answers: Iterable[str]) -> str:
    return "; ".join(f"{times} x {answer}" for answer, times in collections.Counter(answers).most_common(3))


def outcome(ask: Callable[[], Any]) -> str:
    """``ok``, or the error's code and first words."""
    try:
        ask()
    except ClientError as error:
        return f"{error.code}: {str(error)[:80]}"
    return "ok"


def prompts(doors: Doors, prompt: str | list[dict[str, str]], count: int, options: Options) -> str:
    """``count`` requests at once, each for one answer that is not streamed."""
    with doors.client() as client, ThreadPoolExecutor(count) as pool:
        asks = [partial(client.generate, prompt, options)] * count
        return counted(pool.map(outcome, asks))


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def stop_words(doors: Doors) -> str:
    return prompts(doors, said("Hi"), 8, Options(max_tokens=MOST_TOKENS, stop=("END",), n=4))


def equals_signs(doors: Doors) -> str:
    return prompts(doors, "=" * 8_000_000, 2, Options(max_tokens=1))


def blanks(doors: Doors) -> str:
    return prompts(doors, " " * 3_900_000, 4, Options(max_tokens=1))


def dashes(doors: Doors) -> str:
    return prompts(doors, said("-" * 2_000_000), 4, Options(max_tokens=1))


def whole_context(doors: Doors) -> str:
    """An ordinary long document, near the CPU model's 8,192 tokens; no two alike, so that no cache helps."""
    numbers = (" ".join(f"{random.randrange(10**6):06}" for _ in range(1_000)) for _ in range(3))
    with doors.client() as client:
        return counted(outcome(partial(client.generate, text, Options(max_tokens=1))) for text in numbers)


def many_messages(doors: Doors) -> str:
    return prompts(doors, said("a") * 200_000, 2, Options(max_tokens=1))


def many_tools(doors: Doors) -> str:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    return prompts(doors, said("Hi"), 2, Options(max_tokens=1, tools=[tool] * 80_000))


def slow_regex(doors: Doors) -> str:
    return prompts(doors, "a", 4, Options(max_tokens=8, guide_type="regex", guide="((a{100}){100}){100}"))


def slow_masks(doors: Doors) -> str:
    """A regular expression whose masks take half of what they may, for 32 sequences."""
    return prompts(doors, "a", 2, Options(max_tokens=8, n=16, guide_type="regex", guide="((a{50}){50}){50}"))


def wide_schema(doors: Doors) -> str:
    properties = ", ".join(f'"p{i}": {{"type": "string", "enum": ["v{i}"]}}' for i in range(1300))
    guide = f'{{"type": "object", "properties": {{{properties}}}}}'
    return prompts(doors, "a", 4, Options(max_tokens=8, guide_type="json_schema", guide=guide))


def _inference(doors: Doors, request: Any, **call: Any) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{doors.grpc}", CHANNEL_OPTIONS) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            messages = [
                str(from_wire(m.error_message) or m.error_message)[:80]
                for m in stub.ModelStreamInfer(iter([request]), timeout=60, **call)
            ]
        except grpc.RpcError as error:
            return f"{error.code().name}: {str(error.details())[:80]}"
        return counted(message or "ok" for message in messages)


def gzip_bomb(doors: Doors) -> str:
    request = pb.ModelInferRequest(model_name="qwen", id="gzip-bomb")
    add_tensor(request, "text_input", "BYTES", ["a" * 200_000_000])
    return _inference(doors, request, compression=grpc.Compression.Gzip)


def many_texts(doors: Doors) -> str:
    """Two million stop words in 10 MB."""
    request = pb.ModelInferRequest(model_name="qwen", id="many-texts")
    add_tensor(request, "text_input", "BYTES", ["Hi"])
    words = request.inputs.add(name="stop_words", datatype="BYTES", shape=[1, 2_000_000])
    request.raw_input_contents.append(b"\x01\x00\x00\x00a" * words.shape[1])
    return _inference(doors, request)


def hand_made_chunks(doors: Doors) -> str:
    request = pb.ModelInferRequest(model_name="detokenizer")
    add_tensor(request, "chunk", "INT32", [-1, 0, 0, 0, 0, 0, 0, 0, -12, 0, 0, 0])
    return counted(_inference(doors, request) for _ in range(20))


def hand_made_jobs(doors: Doors) -> str:
    request = pb.ModelInferRequest(model_name="engine")
    add_tensor(request, "prompt_ids", "INT32", [1, 2])
    add_tensor(request, "job", "BYTES", ['{"sampling": {"max_tokens": 4, "temperature": "x"}, "n": 0}'])
    return counted(_inference(doors, request) for _ in range(20))


# --- the gateway: bodies of at most 8 MiB, its own bound


def posts(doors: Doors, path: str, body: str, count: int = 2) -> str:
    """``count`` times the same body at once."""
    url, content = f"http://127.0.0.1:{doors.gateway}{path}", body.encode()
    headers = {"content-type": "application/json"}

    def post(_: int) -> str:
        try:
            answer = httpx.post(url, content=content, headers=headers, timeout=90, trust_env=False)
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        return str(answer.status_code) if answer.is_success else f"{answer.status_code}: {_said(answer)[:80]}"

    with ThreadPoolExecutor(count) as pool:
        return counted(pool.map(post, range(count)))


def _said(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text


def chat(messages: str = '[{"role":"user","content":"Hi"}]', more: str = "") -> str:
    return f'{{"model":"qwen","max_tokens":1,"messages":{messages}{more}}}'


def listed(element: str, count: int) -> str:
    return "[" + ",".join([element] * count) + "]"


def keyed(key: str, count: int) -> str:
    """``count`` different keys, each with the value 1; ``key`` is a format of a number."""
    return ",".join(f'"{key.format(number)}":1' for number in range(count))


def http_tools(doors: Doors) -> str:
    tools = listed('{"type":"function","function":{"name":"f","description":"does so"}}', 90_000)
    return posts(doors, "/v1/chat/completions", chat(more=f',"tools":{tools}'))


def http_messages(doors: Doors) -> str:
    return posts(doors, "/v1/chat/completions", chat(listed('{"role":"user","content":"a"}', 230_000)))


def http_content_parts(doors: Doors) -> str:
    parts = listed('{"type":"text","text":"a"}', 240_000)
    return posts(doors, "/v1/chat/completions", chat(f'[{{"role":"user","content":{parts}}}]'))


def http_logit_bias(doors: Doors) -> str:
    return posts(doors, "/v1/chat/completions", chat(more=f',"logit_bias":{{{keyed("{}", 500_000)}}}'))


def http_prompt_ids(doors: Doors) -> str:
    return posts(doors, "/v1/completions", f'{{"model":"qwen","max_tokens":1,"prompt":{listed("1", 2_000_000)}}}')


def http_unknown_fields(doors: Doors) -> str:
    return posts(doors, "/v1/chat/completions", chat(more="," + keyed("f{}", 500_000)))


def http_long_text(doors: Doors) -> str:
    return posts(doors, "/v1/chat/completions", chat(json.dumps(said("word " * 1_600_000))))


def http_equals_signs(doors: Doors) -> str:
    return posts(doors, "/v1/chat/completions", chat(json.dumps(said("=" * 8_000_000))))


def http_tokenize(doors: Doors) -> str:
    return posts(doors, "/tokenize", json.dumps({"model": "qwen", "prompt": "word " * 400_000}))


def http_half_sent(doors: Doors) -> str:
    """Bodies that never end."""
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return held(doors, 2100, head + 'Content-Length: 100\r\n\r\n{"model":')


def http_idle_upgrades(doors: Doors) -> str:
    """Offers of HTTP/2, which are answered in HTTP/1.1, and nothing after them."""
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
    return held(doors, 1000, f"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n{offer}")


def http_slow_readers(doors: Doors) -> str:
    """A file of half a megabyte, of which each client reads one byte per second."""
    return held(doors, 400, f"GET {LARGE_FILE} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", reading=True)


def held(doors: Doors, count: int, sent: str, reading: bool = False) -> str:
    """``count`` connections that send this much and stay for ``HELD_S``; then, beside them, an ordinary request."""
    connections = []
    for _ in range(count):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", doors.gateway))
        connection.sendall(sent.encode())
        connections.append(connection)
    until = time.monotonic() + HELD_S
    while time.monotonic() < until:
        time.sleep(1)
        for connection in connections if reading else ():
            connection.recv(1)
    answer = posts(doors, "/v1/chat/completions", chat(), 1)
    for connection in connections:
        connection.close()
    return f"{count} held; then {answer}"


def guided(doors: Doors, pattern: str) -> str:
    return posts(doors, "/v1/chat/completions", chat(more=f',"guided_regex":{json.dumps(pattern)}'), 4)


def http_choices(doors: Doors) -> str:
    """An alternation of 5,000 words, none of which another one starts with."""
    return guided(doors, "|".join(f"w{number:05}x" for number in range(5000)))


def http_long_repeat(doors: Doors) -> str:
    return guided(doors, "(?:[a-z]{1,3000} ){1,3000}")


ATTACKS: dict[str, Callable[[Doors], str]] = {
    each.__name__: each
    for each in (
        stop_words, equals_signs, blanks, dashes, whole_context, many_messages, many_tools, slow_regex, slow_masks,
        wide_schema, gzip_bomb, many_texts, hand_made_chunks, hand_made_jobs, http_tools, http_messages,
        http_content_parts, http_logit_bias, http_prompt_ids, http_unknown_fields, http_long_text, http_equals_signs,
        http_tokenize, http_half_sent, http_idle_upgrades, http_slow_readers, http_choices, http_long_repeat,
    )
}  # fmt: skip


def give_way() -> None:
    """An attacker has a machine of its own: what it computes may not slow the server down. Where Linux shares the cores
    between sessions (sched(7), autogroup), a nice process is so only to its own session, which has a value too: one at
    which it gets on beside an engine that keeps all cores busy."""
    os.nice(19)
    group = Path("/proc/self/autogroup")
    if os.getsid(0) == os.getpid() and group.exists():
        group.write_text("10", encoding="ascii")


if __name__ == "__main__":
    give_way()
    name, *ports = sys.argv[1:]
    print(ATTACKS[name](Doors(*map(int, ports))))
