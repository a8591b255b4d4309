"""The attack matrix of `make bench-isolation`: each is what one client may send within, or just beyond, the limits.

    python -m loadtest.bench.attacks NAME GRPC_PORT GATEWAY_PORT     one attack; prints what the attacker got

An attack runs in a process of its own, so that making it does not slow the measurement. To add one: a function, and its
name in ``ATTACKS``.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from client import Client, ClientError, Options
from client.kserve import CHANNEL_OPTIONS, add_tensor
from client.types import NO_RETRY
from contract.errors import from_wire

MOST_TOKENS = 32


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


def many_messages(doors: Doors) -> str:
    return prompts(doors, said("a") * 200_000, 2, Options(max_tokens=1))


def many_tools(doors: Doors) -> str:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    return prompts(doors, said("Hi"), 2, Options(max_tokens=1, tools=[tool] * 80_000))


def slow_regex(doors: Doors) -> str:
    return prompts(doors, "a", 4, Options(max_tokens=8, guide_type="regex", guide="((a{100}){100}){100}"))


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


def hand_made_chunks(doors: Doors) -> str:
    request = pb.ModelInferRequest(model_name="detokenizer")
    add_tensor(request, "chunk", "INT32", [-1, 0, 0, 0, 0, 0, 0, 0, -12, 0, 0, 0])
    return counted(_inference(doors, request) for _ in range(20))


def hand_made_jobs(doors: Doors) -> str:
    request = pb.ModelInferRequest(model_name="engine")
    add_tensor(request, "prompt_ids", "INT32", [1, 2])
    add_tensor(request, "job", "BYTES", ['{"sampling": {"max_tokens": 4, "temperature": "x"}, "n": 0}'])
    return counted(_inference(doors, request) for _ in range(20))


ATTACKS: dict[str, Callable[[Doors], str]] = {
    each.__name__: each
    for each in (
        stop_words, equals_signs, blanks, dashes, many_messages, many_tools, slow_regex, wide_schema, gzip_bomb,
        hand_made_chunks, hand_made_jobs,
    )
}  # fmt: skip


if __name__ == "__main__":
    name, *ports = sys.argv[1:]
    print(ATTACKS[name](Doors(*map(int, ports))))
