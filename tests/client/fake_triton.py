"""A Triton that has only the public contract of model ``qwen`` (README.md): what clients are tested against.

The prompt says how it behaves (``SAY text``, ``LOOP text``, ``ERR code message``, ``TXT message``, ``MID …``, ``GAP``,
``CUT``, ``SLOW s``, ``STALL s``); anything else is answered with ``w0 w1 w2 …``. It runs in its own thread and loop.
"""

from __future__ import annotations

import asyncio
import json
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from contract.replica import HEADER
from tests.client.fake_metrics import MetricsServer, metrics_handler

LISTS = (
    "stop_words", "bad_words", "stop_token_ids", "repetition_detection", "logit_bias_ids",
    "logit_bias_values", "allowed_token_ids", "input_ids", "resume_ids",
)  # fmt: skip
PROMPT_IDS = [5, 6, 7]  # of any prompt that does not come as ids
READERS = {"INT32": "i", "FP32": "f", "UINT64": "Q"}


def decode(request: Any) -> dict[str, Any]:
    """Input tensors as Python values; one-element tensors as scalars, except the list-valued ones."""
    out: dict[str, Any] = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        assert tensor.shape[0] == 1, (tensor.name, tensor.shape)
        if tensor.datatype == "BYTES":
            values, at = [], 0
            while at < len(raw):
                (size,) = struct.unpack_from("<I", raw, at)
                values.append(raw[at + 4 : at + 4 + size].decode())
                at += 4 + size
        elif tensor.datatype == "BOOL":
            values = [bool(b) for b in raw]
        else:
            values = list(memoryview(raw).cast(READERS[tensor.datatype]))
        assert len(values) == tensor.shape[1], (tensor.name, tensor.shape, values)
        out[tensor.name] = values if tensor.name in LISTS else values[0]
    return out


@dataclass
class Live:
    """A running request: ``stopped`` is set by a stop request with its id."""

    stopped: asyncio.Event
    since: float = field(default_factory=time.monotonic)


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, step_ms: float = 1.0, port: int = 0) -> None:
        self.step_ms, self.port = step_ms, port
        self.live: dict[str, Live] = {}
        self.ended: list[tuple[str, str, float]] = []  # id, reason, monotonic time
        self.requests: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.metadata: list[dict[str, str]] = []
        self.busy = 0
        self.salted = 0
        self.replica = ""  # how a router names it in the headers of answers
        self.refuses = ""  # every new request, with this
        self.dies_at = 0  # every answer breaks off before this piece; 0: none
        self.hangs_at = 0  # every streamed answer says nothing more from this piece on; 0: none
        self.places, self.waiting = 0, 12  # gauges of the engine; 0 places: it does not say
        self.ready = True
        self.finished_total = 0
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    # life
    def start(self) -> FakeTriton:
        self._thread.start()
        assert self._started.wait(10)
        self._http = MetricsServer(("127.0.0.1", 0), metrics_handler(self))
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def metrics(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/metrics"

    def release(self) -> None:
        """End every request that runs now, as a stop request would."""
        for live in list(self.live.values()):
            self._loop.call_soon_threadsafe(live.stopped.set)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(0), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._http.shutdown()
        self._http.server_close()

    def _run(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._serve())
        self._started.set()
        self._loop.run_forever()

    async def _serve(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    def wait_free(self, seconds: float = 3.0) -> float:
        """Seconds until no request is running; fails when it takes longer."""
        begin = time.monotonic()
        while self.live:
            assert time.monotonic() - begin < seconds, f"still running: {list(self.live)}"
            time.sleep(0.002)
        return time.monotonic() - begin

    # KServe
    async def ServerReady(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=self.ready)

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        return pb.ModelReadyResponse(ready=self.ready and request.name == "qwen")

    async def ModelStreamInfer(self, request_iterator: Any, context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        if self.replica:
            await context.send_initial_metadata(((HEADER, self.replica),))
        async for request in request_iterator:
            await self._one(request, context)

    async def _one(self, request: Any, context: Any) -> None:
        inputs = decode(request)
        if inputs.get("stop"):
            if running := self.live.get(request.id):
                running.stopped.set()
            await context.write(self._response(request.id, "", "cancelled", [], 0, 0))
            return
        self.requests.append(inputs)
        self.ids.append(request.id)
        live = self.live[request.id] = Live(asyncio.Event())
        reason = "disconnected"
        try:
            reason = await self._answer(request.id, inputs, live, context)
        finally:
            self.live.pop(request.id, None)
            self.ended.append((request.id, reason, time.monotonic()))
            self.finished_total += 1

    async def _answer(self, rid: str, inputs: dict[str, Any], live: Live, context: Any) -> str:
        if "messages" in inputs:
            prompt = json.loads(inputs["messages"])[-1]["content"]
        else:
            prompt = inputs.get("text_input", "ids")
        word, _, rest = str(prompt).partition(" ")
        if self.refuses:
            await context.write(pb.ModelStreamInferResponse(error_message=self.refuses))
            return "error"
        if self.busy:
            self.busy -= 1
            return await self._refuse(context, "queue_full", "queue: 64 requests are waiting; try later")
        if word == "TXT":  # how Triton answers without the metadata triton_grpc_error: text in a stream that ends OK
            await context.write(pb.ModelStreamInferResponse(error_message=f"in ensemble 'qwen', {rest}"))
            return "error"
        if word == "ERR":
            code, _, message = rest.partition(" ")
            return await self._refuse(context, code, message)
        if word == "SLOW":
            await self._sleep(float(rest), live)
        pieces = self._pieces(word, rest, inputs)
        n = inputs.get("num_return_sequences", 1)
        if not inputs["stream"]:
            await self._sleep(self.step_ms / 1000 * len(pieces), live)
            finish = self._finish(word, pieces, inputs, live)
            await context.write(
                self._response(rid, "".join(pieces), finish, list(range(len(pieces))), 0, len(pieces), inputs)
            )
            return finish
        ahead = int(bool(inputs.get("return_prompt_log_probs")))
        finish = "" if pieces else "length"  # max_tokens 0: nothing but scores
        for sequence in range(n * ahead):  # a prompt that is read in two pieces
            await context.write(self._response(rid, "", finish, [], 0, 0, inputs, sequence))
        skipped = len(inputs.get("resume_ids", ()))
        for at, piece in enumerate(pieces):
            if at < skipped:
                continue
            if live.stopped.is_set():
                break
            if self.dies_at and at == self.dies_at:
                return await self._refuse(context, "engine_unavailable", "engine: it died")
            if at == 2 and word == "MID":
                code, _, message = rest.partition(" ")
                return await self._refuse(context, code, message)
            if self.hangs_at and at == self.hangs_at:
                await self._sleep(30, live)
            if at == 2 and word == "STALL":
                await self._sleep(float(rest), live)
            if at == 2 and word == "CUT":
                return "cut"
            last = at == len(pieces) - 1
            finish = self._finish(word, pieces, inputs, live) if last else ""
            for sequence in range(n):
                index = at - skipped + ahead + (word == "GAP" and at >= 1)
                await context.write(self._response(rid, piece, finish, [at], index, at + 1, inputs, sequence))
            await self._sleep(self.step_ms / 1000, live)
        if live.stopped.is_set():
            return "cancelled"
        return finish

    @staticmethod
    async def _refuse(context: Any, code: str, message: str) -> str:
        """As Triton: a text inside the stream. Only its own end (CANCELLED) is a status whatever the caller asks."""
        if code == "CANCELLED":
            await context.abort(grpc.StatusCode.CANCELLED, message)
        await context.write(pb.ModelStreamInferResponse(error_message=f"in ensemble 'qwen', [{code}] {message}"))
        return "error"

    @staticmethod
    async def _sleep(seconds: float, live: Live) -> None:
        if seconds > 0:
            try:
                await asyncio.wait_for(live.stopped.wait(), seconds)
            except asyncio.TimeoutError:
                return
        else:
            await asyncio.sleep(0)

    @staticmethod
    def _pieces(word: str, rest: str, inputs: dict[str, Any]) -> list[str]:
        limit = inputs.get("max_tokens", 8 if word != "SAY" else 1 << 20)
        if word == "SAY":
            return [rest[i : i + 3] for i in range(0, len(rest), 3)][:limit] or [""]
        return [("" if i == 0 else " ") + f"w{i}" for i in range(limit)]

    @staticmethod
    def _finish(word: str, pieces: list[str], inputs: dict[str, Any], live: Live) -> str:
        if live.stopped.is_set():
            return "cancelled"
        if word == "LOOP" and "repetition_detection" in inputs:
            return "repetition"
        return "stop" if word == "SAY" and len(pieces) < inputs.get("max_tokens", 1 << 30) else "length"

    @staticmethod
    def _response(
        rid: str, text: str, finish: str, ids: list[int], index: int, tokens: int,
        inputs: dict[str, Any] | None = None, sequence: int = 0,
    ) -> Any:  # fmt: skip
        message = pb.ModelStreamInferResponse()
        response = message.infer_response
        response.model_name, response.id = "qwen", rid

        def add(name: str, datatype: str, raw: bytes, count: int = 1) -> None:
            tensor = response.outputs.add()
            tensor.name, tensor.datatype = name, datatype
            tensor.shape.extend((1, count))
            response.raw_output_contents.append(raw)

        for name, value in (("text_output", text), ("finish_reason", finish)):
            raw = value.encode()
            add(name, "BYTES", struct.pack("<I", len(raw)) + raw)
        numbers = {"prompt_tokens": 11, "completion_tokens": tokens, "cached_tokens": 3}
        for name, number in (numbers | {"chunk_index": index, "sequence_index": sequence}).items():
            add(name, "INT32", struct.pack("<i", number))
        add("output_ids", "INT32", struct.pack(f"<{len(ids)}i", *ids), len(ids))
        if inputs and inputs.get("return_prompt_ids") and not index:
            given = inputs.get("input_ids", PROMPT_IDS)
            add("prompt_ids", "INT32", struct.pack(f"<{len(given)}i", *given), len(given))
        if inputs and inputs.get("return_log_probs"):
            add("output_log_probs", "FP32", struct.pack(f"<{len(ids)}f", *[-0.5] * len(ids)), len(ids))
            if top := inputs.get("top_logprobs"):
                raw = json.dumps([[[i + k, -0.5 - k] for k in range(top)] for i in ids]).encode()
                add("top_log_probs", "BYTES", struct.pack("<I", len(raw)) + raw)
        if inputs and inputs.get("return_prompt_log_probs") and index < 2:
            FakeTriton._score(add, inputs.get("input_ids", PROMPT_IDS), inputs.get("prompt_top_logprobs", 0), index)
        return message

    @staticmethod
    def _score(add: Callable[..., None], ids: list[int], top: int, index: int) -> None:
        """The first score ahead, the others with the first token: token i has -i, and rank 2."""
        some = ids[1:2] if index == 0 else ids[2:]
        add("prompt_log_probs", "FP32", struct.pack(f"<{len(some)}f", *[-float(i) for i in some]), len(some))
        add("prompt_ranks", "INT32", struct.pack(f"<{len(some)}i", *[2 for _ in some]), len(some))
        raw = json.dumps([[[i + 1 - k, -0.5 - k] for k in range(top)] for i in some]).encode()
        add("prompt_top_log_probs", "BYTES", struct.pack("<I", len(raw)) + raw)
