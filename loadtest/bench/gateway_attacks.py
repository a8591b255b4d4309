"""Attacks through the gateway: bodies of at most 8 MiB, its own bound, and connections that are held open."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from loadtest.bench.target import Target, counted, said

LARGE_FILE = "/static/vendor/temml.js"  # of the chat page
HELD_S = 10.0  # connections are held open for this long


def posts(target: Target, path: str, body: str, count: int = 2) -> str:
    """``count`` times the same body at once."""
    url, content = f"http://127.0.0.1:{target.gateway}{path}", body.encode()
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


def http_tools(target: Target) -> str:
    tools = listed('{"type":"function","function":{"name":"f","description":"does so"}}', 90_000)
    return posts(target, "/v1/chat/completions", chat(more=f',"tools":{tools}'))


def http_messages(target: Target) -> str:
    return posts(target, "/v1/chat/completions", chat(listed('{"role":"user","content":"a"}', 230_000)))


def http_content_parts(target: Target) -> str:
    parts = listed('{"type":"text","text":"a"}', 240_000)
    return posts(target, "/v1/chat/completions", chat(f'[{{"role":"user","content":{parts}}}]'))


def http_logit_bias(target: Target) -> str:
    return posts(target, "/v1/chat/completions", chat(more=f',"logit_bias":{{{keyed("{}", 500_000)}}}'))


def http_prompt_ids(target: Target) -> str:
    return posts(target, "/v1/completions", f'{{"model":"qwen","max_tokens":1,"prompt":{listed("1", 2_000_000)}}}')


def http_unknown_fields(target: Target) -> str:
    return posts(target, "/v1/chat/completions", chat(more="," + keyed("f{}", 500_000)))


def http_long_text(target: Target) -> str:
    return posts(target, "/v1/chat/completions", chat(json.dumps(said("word " * 1_600_000))))


def http_equals_signs(target: Target) -> str:
    return posts(target, "/v1/chat/completions", chat(json.dumps(said("=" * 8_000_000))))


def http_tokenize(target: Target) -> str:
    return posts(target, "/tokenize", json.dumps({"model": "qwen", "prompt": "word " * 400_000}))


def http_half_sent(target: Target) -> str:
    """Bodies that never end."""
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return held(target, 2100, head + 'Content-Length: 100\r\n\r\n{"model":')


def http_idle_upgrades(target: Target) -> str:
    """Offers of HTTP/2, which are answered in HTTP/1.1, and nothing after them."""
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
    return held(target, 1000, f"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n{offer}")


def http_slow_readers(target: Target) -> str:
    """A file of half a megabyte, of which each client reads one byte per second."""
    return held(target, 400, f"GET {LARGE_FILE} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", reading=True)


def held(target: Target, count: int, sent: str, reading: bool = False) -> str:
    """``count`` connections that send this much and stay for ``HELD_S``; then, beside them, an ordinary request."""
    connections = []
    for _ in range(count):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", target.gateway))
        connection.sendall(sent.encode())
        connections.append(connection)
    until = time.monotonic() + HELD_S
    while time.monotonic() < until:
        time.sleep(1)
        for connection in connections if reading else ():
            connection.recv(1)
    answer = posts(target, "/v1/chat/completions", chat(), 1)
    for connection in connections:
        connection.close()
    return f"{count} held; then {answer}"


def guided(target: Target, pattern: str) -> str:
    return posts(target, "/v1/chat/completions", chat(more=f',"guided_regex":{json.dumps(pattern)}'), 4)


def http_choices(target: Target) -> str:
    """An alternation of 5,000 words, none of which another one starts with."""
    return guided(target, "|".join(f"w{number:05}x" for number in range(5000)))


def http_long_repeat(target: Target) -> str:
    return guided(target, "(?:[a-z]{1,3000} ){1,3000}")


ALL = (
    http_tools, http_messages, http_content_parts, http_logit_bias,
    http_prompt_ids, http_unknown_fields, http_long_text,
    http_equals_signs, http_tokenize, http_half_sent,
    http_idle_upgrades, http_slow_readers, http_choices, http_long_repeat,
)  # fmt: skip
