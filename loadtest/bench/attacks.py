"""The attack matrix of `make bench-isolation`: each is what one client may send within, or just beyond, the limits.

    python -m loadtest.bench.attacks NAME GRPC_PORT GATEWAY_PORT     one attack; prints what the attacker got

An attack runs in a niced session of its own, so that making it slows neither the measurement nor the server.
To add one: a function, and its name in ``ATTACKS``; one through the gateway stands in ``gateway_attacks``.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from client import ClientError, Options
from client.kserve import CHANNEL_OPTIONS, add_tensor
from contract.errors import from_wire
from loadtest.bench import gateway_attacks
from loadtest.bench.target import Target, counted, said

MOST_TOKENS = 32


def outcome(ask: Callable[[], Any]) -> str:
    """``ok``, or the error's code and first words."""
    try:
        ask()
    except ClientError as error:
        return f"{error.code}: {str(error)[:80]}"
    return "ok"


def prompts(target: Target, prompt: str | list[dict[str, str]], count: int, options: Options) -> str:
    """``count`` requests at once, each for one answer that is not streamed."""
    with target.client() as client, ThreadPoolExecutor(count) as pool:
        asks = [partial(client.generate, prompt, options)] * count
        return counted(pool.map(outcome, asks))


def stop_words(target: Target) -> str:
    return prompts(target, said("Hi"), 8, Options(max_tokens=MOST_TOKENS, stop=("END",), n=4))


def equals_signs(target: Target) -> str:
    return prompts(target, "=" * 8_000_000, 2, Options(max_tokens=1))


def blanks(target: Target) -> str:
    return prompts(target, " " * 3_900_000, 4, Options(max_tokens=1))


def dashes(target: Target) -> str:
    return prompts(target, said("-" * 2_000_000), 4, Options(max_tokens=1))


def whole_context(target: Target) -> str:
    """An ordinary long document, near the CPU model's 8,192 tokens; no two alike, so that no cache helps."""
    numbers = (" ".join(f"{random.randrange(10**6):06}" for _ in range(1_000)) for _ in range(3))
    with target.client() as client:
        return counted(outcome(partial(client.generate, text, Options(max_tokens=1))) for text in numbers)


def many_messages(target: Target) -> str:
    return prompts(target, said("a") * 200_000, 2, Options(max_tokens=1))


def many_tools(target: Target) -> str:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    return prompts(target, said("Hi"), 2, Options(max_tokens=1, tools=[tool] * 80_000))


def slow_regex(target: Target) -> str:
    return prompts(target, "a", 4, Options(max_tokens=8, guide_type="regex", guide="((a{100}){100}){100}"))


def slow_masks(target: Target) -> str:
    """A regular expression whose masks take half of what they may, for 32 sequences."""
    return prompts(target, "a", 2, Options(max_tokens=8, n=16, guide_type="regex", guide="((a{50}){50}){50}"))


def wide_schema(target: Target) -> str:
    properties = ", ".join(f'"p{i}": {{"type": "string", "enum": ["v{i}"]}}' for i in range(1300))
    guide = f'{{"type": "object", "properties": {{{properties}}}}}'
    return prompts(target, "a", 4, Options(max_tokens=8, guide_type="json_schema", guide=guide))


def _inference(target: Target, request: Any, **call: Any) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{target.grpc}", CHANNEL_OPTIONS) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            messages = [
                str(from_wire(m.error_message) or m.error_message)[:80]
                for m in stub.ModelStreamInfer(iter([request]), timeout=60, **call)
            ]
        except grpc.RpcError as error:
            return f"{error.code().name}: {str(error.details())[:80]}"
        return counted(message or "ok" for message in messages)


def gzip_bomb(target: Target) -> str:
    request = pb.ModelInferRequest(model_name="qwen", id="gzip-bomb")
    add_tensor(request, "text_input", "BYTES", ["a" * 200_000_000])
    return _inference(target, request, compression=grpc.Compression.Gzip)


def many_texts(target: Target) -> str:
    """Two million stop words in 10 MB."""
    request = pb.ModelInferRequest(model_name="qwen", id="many-texts")
    add_tensor(request, "text_input", "BYTES", ["Hi"])
    words = request.inputs.add(name="stop_words", datatype="BYTES", shape=[1, 2_000_000])
    request.raw_input_contents.append(b"\x01\x00\x00\x00a" * words.shape[1])
    return _inference(target, request)


def hand_made_chunks(target: Target) -> str:
    request = pb.ModelInferRequest(model_name="detokenizer")
    add_tensor(request, "chunk", "INT32", [-1, 0, 0, 0, 0, 0, 0, 0, -12, 0, 0, 0])
    return counted(_inference(target, request) for _ in range(20))


def hand_made_jobs(target: Target) -> str:
    request = pb.ModelInferRequest(model_name="engine")
    add_tensor(request, "prompt_ids", "INT32", [1, 2])
    add_tensor(request, "job", "BYTES", ['{"sampling": {"max_tokens": 4, "temperature": "x"}, "n": 0}'])
    return counted(_inference(target, request) for _ in range(20))


ATTACKS: dict[str, Callable[[Target], str]] = {
    each.__name__: each
    for each in (
        stop_words, equals_signs, blanks, dashes, whole_context, many_messages, many_tools, slow_regex, slow_masks,
        wide_schema, gzip_bomb, many_texts, hand_made_chunks, hand_made_jobs, *gateway_attacks.ALL,
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
    print(ATTACKS[name](Target(*map(int, ports))))
