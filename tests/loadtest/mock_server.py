"""A calibrated target: Triton's gRPC stream, the gateway's SSE and a metrics page with known TTFT and ITL.

    python tests/loadtest/mock_server.py --ttft-ms 100 --spread 0.5 --itl-ms 20 [--stall-at 5 --stall-for 3]

The i-th stream's first token is due ``ttft·(1 + spread·u_i)`` after its arrival, where u_i = frac(i·0.618…) is spread
evenly over [0, 1). GET /truth gives what the server really did, by its own clock. Prints its ports as one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import struct
import sys
import time
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

GOLDEN = 0.6180339887498949


class Model:
    """When tokens come. Knows nothing of a transport."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.first = 0.0
        self.numbers = itertools.count()
        self.slots = asyncio.Semaphore(options.slots or 1_000_000)
        self.truth: list[dict[str, float]] = []
        self.running = 0
        self.waiting = 0
        self.finished = {"length": 0, "disconnected": 0}
        self.asked_to_stop: set[str] = set()  # request ids

    def reset(self) -> None:
        self.truth.clear()
        self.first = 0.0

    async def tokens(self, count: int) -> Any:
        """Yields 1, 2, … count, each at its time."""
        arrived = time.monotonic()
        if count > 1:  # one: before the run
            self.first = self.first or arrived
        self.waiting += 1
        async with self.slots:
            self.waiting -= 1
            self.running += 1
            done = False
            try:
                spread = 1 + self.options.spread * ((next(self.numbers) * GOLDEN) % 1)
                due = time.monotonic() + self.options.ttft_ms / 1e3 * spread
                sent = []
                for k in range(1, count + 1):
                    await self._until(due)
                    sent.append(time.monotonic())
                    yield k
                    due = max(due, sent[-1] - 0.005) + self.options.itl_ms / 1e3
                done = True
                tpot = (sent[-1] - sent[0]) / (count - 1) if count > 1 else 0.0
                if count > 1:
                    self.truth.append({"ttft": sent[0] - arrived, "tpot": tpot, "first": sent[0]})
            finally:
                self.running -= 1
                self.finished["length" if done else "disconnected"] += 1

    async def _until(self, due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        stall, length = self.options.stall_at, self.options.stall_for
        if length and 0 <= time.monotonic() - self.first - stall < length:
            await asyncio.sleep(self.first + stall + length - time.monotonic())
        if self.options.die_at and time.monotonic() - self.first > self.options.die_at:
            os._exit(9)

    def metrics(self) -> str:
        total = sum(self.finished.values())
        return (
            f"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running {self.running}\n"
            f"vllm:num_requests_waiting {self.waiting}\nvllm:kv_cache_usage_perc {min(1.0, self.running / 64)}\n"
            f'qwen_streams_finished_total{{reason="disconnected"}} {self.finished["disconnected"]}\n'
            f'qwen_streams_finished_total{{reason="length"}} {total}\n'
        )


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, model: Model) -> None:
        self.model = model

    async def ModelReady(self, request: Any, context: Any) -> Any:
        return pb.ModelReadyResponse(ready=request.name == "qwen")

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(name="calibrated mock", version="1")

    async def ModelStreamInfer(self, request_iterator: Any, context: Any) -> Any:
        async for request in request_iterator:
            inputs = {i.name: raw for i, raw in zip(request.inputs, request.raw_input_contents, strict=True)}
            if self.model.options.refuse:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "[queue_full] queue: 8 requests wait, retry later")
            if "stop" in inputs:
                self.model.asked_to_stop.add(request.id)
                return
            wanted = struct.unpack("<i", inputs["max_tokens"])[0]
            prompt = len(inputs["messages"]) // 4
            tokens = self.model.tokens(wanted)
            async for k in tokens:
                if request.id in self.model.asked_to_stop:
                    await tokens.aclose()
                    return
                yield pb.ModelStreamInferResponse(infer_response=response(k, wanted, prompt))


def response(k: int, wanted: int, prompt: int) -> Any:
    message = pb.ModelInferResponse(model_name="qwen")
    for name, datatype, raw in (
        ("text_output", "BYTES", text(b"word ")),
        ("finish_reason", "BYTES", text(b"length" if k == wanted else b"")),
        ("prompt_tokens", "INT32", struct.pack("<i", prompt)),
        ("completion_tokens", "INT32", struct.pack("<i", k)),
    ):
        message.outputs.add(name=name, datatype=datatype, shape=(1, 1))
        message.raw_output_contents.append(raw)
    return message


def text(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value


async def http(model: Model, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Enough HTTP/1.1 for the gateway's path, /truth, /reset and /metrics; keeps connections alive."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(
                (int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length")), 0
            )
            body = await reader.readexactly(length)
            path = head.split(b" ", 2)[1].decode()
            if path == "/v1/chat/completions":
                await completions(model, json.loads(body), writer)
            else:
                whole(writer, page(model, path))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def page(model: Model, path: str) -> bytes:
    if path == "/reset":
        model.reset()
    pages = {
        "/running": str(model.running),
        "/truth": json.dumps(model.truth),
        "/metrics": model.metrics(),
        "/v1/models": '{"data": [{"id": "mock"}]}',
    }
    return pages.get(path, "{}").encode()


def whole(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


async def completions(model: Model, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    wanted, options = request["max_tokens"], request.get("stream_options", {})
    prompt = len(json.dumps(request["messages"], ensure_ascii=False)) // 4
    event(writer, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
    k = 0
    async for k in model.tokens(wanted):
        reason = "length" if k == wanted else None
        chunk: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": reason}]}
        if options.get("continuous_usage_stats") and not model.options.plain_usage:
            chunk["usage"] = {"prompt_tokens": prompt, "completion_tokens": k}
        event(writer, chunk)
        await writer.drain()
    if options.get("include_usage"):
        event(writer, {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": k}})
    frame(writer, b"data: [DONE]\n\n")
    frame(writer, b"")


def event(writer: asyncio.StreamWriter, data: dict[str, Any]) -> None:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "mock"}
    frame(writer, b"data: " + json.dumps(base | data).encode() + b"\n\n")


def frame(writer: asyncio.StreamWriter, payload: bytes) -> None:
    writer.write(b"%x\r\n" % len(payload) + payload + b"\r\n")


async def serve(options: argparse.Namespace) -> None:
    model = Model(options)
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(model), server)
    grpc_port = server.add_insecure_port(f"127.0.0.1:{options.grpc_port}")
    await server.start()
    web = await asyncio.start_server(lambda r, w: http(model, r, w), "127.0.0.1", options.gateway_port)
    print(json.dumps({"grpc": grpc_port, "gateway": web.sockets[0].getsockname()[1]}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # the parent closes our stdin to end us
    os._exit(0)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for flag, default in (("grpc-port", 0), ("gateway-port", 0), ("slots", 0)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    for flag, value in (
        ("ttft-ms", 100.0),
        ("itl-ms", 20.0),
        ("spread", 0.0),
        ("stall-at", 0.0),  # seconds after the first request
        ("stall-for", 0.0),
        ("die-at", 0.0),  # seconds after the first request
    ):
        parser.add_argument(f"--{flag}", type=float, default=value)
    parser.add_argument("--plain-usage", action="store_true", help="usage in the last chunk only, as OpenAI has it")
    parser.add_argument("--refuse", action="store_true", help="the queue is full")
    return parser.parse_args()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in a terminal is no traceback
    asyncio.run(serve(options()))
