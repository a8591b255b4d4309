"""Whether this worker can answer requests: what the launcher says, whether Triton is ready, a real one-token answer."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2 as pb

from client.channels import Channels
from client.errors import StreamCut
from client.grpc_aio import AioChannel, AsyncGrpcStream
from client.request import Ask
from client.sequences import request_ids
from client.types import NO_RETRY, Options, Timeouts
from contract.heartbeat import Pulse, launcher_path
from serving.gateway.settings import GatewaySettings
from serving.outage import Outage

READY_SECONDS = 2.0  # limit on one readiness call to Triton
UNWATCHED_SECONDS = 4.0  # launcher silent for this long: not ready, because nothing would restart a dead engine
ABANDONED_SECONDS = 30.0  # launcher silent for this long: not alive, so that an orchestrator restarts everything
MODEL = "qwen"


class Health:
    """``leaving`` is set when this worker is going to end: it is not ready any more."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings, self._readiness_file = settings, settings.readiness_file
        self._launcher = Pulse(launcher_path(Path(settings.readiness_file).parent)) if settings.readiness_file else None
        self._canary: asyncio.Task[float] | None = None
        self.leaving = False

    def connect(self, channel: AioChannel) -> None:
        """``channel`` leads to this gateway's own Triton."""
        self._channel = channel
        self._model_ready = channel.raw.unary_unary(
            "/inference.GRPCInferenceService/ModelReady",
            request_serializer=pb.ModelReadyRequest.SerializeToString,
            response_deserializer=pb.ModelReadyResponse.FromString,
        )

    def look(self, seconds: float) -> None:
        """Look at the launcher's heartbeat, ``seconds`` after the last look."""
        if self._launcher:
            self._launcher.look(seconds)

    def outage(self) -> Outage:
        """Why Triton does not answer and until when, as the launcher tells all workers in one file."""
        if not self._readiness_file:
            return Outage()
        try:
            return Outage.load(Path(self._readiness_file).read_text())
        except (OSError, ValueError):
            return Outage("the launcher is gone")

    def unwatched(self, seconds: float) -> str:
        """The problem when the launcher has been silent for ``seconds``; "" otherwise. Requests are still answered."""
        launcher = self._launcher
        if launcher is None or not launcher.has_begun or launcher.silent < seconds:
            return ""
        return f"the launcher has not run for {launcher.silent:.0f} s: nobody would start a dead engine again"

    async def ready(self) -> str:
        """``""`` when requests can be answered, else why not."""
        if self.leaving:
            return "draining"
        if problem := self.outage().why or self.unwatched(UNWATCHED_SECONDS):
            return problem
        try:  # what the launcher calls ready is: this worker's channel may just have to connect again
            answer = await self._model_ready(
                pb.ModelReadyRequest(name=MODEL), timeout=READY_SECONDS, wait_for_ready=bool(self._readiness_file),
                metadata=self._channel.metadata,
            )  # fmt: skip
        except grpc.RpcError as error:
            return f"Triton at {self._settings.triton_grpc} does not answer ({error.code().name.lower()})"
        return "" if answer.ready else f"Triton has not loaded model {MODEL}"

    async def is_back(self) -> bool | None:
        """Whether requests can be answered again; ``None``: not by a Triton that this gateway's launcher starts."""
        return None if self.leaving or not self._launcher else not await self.ready()

    async def canary(self) -> float:
        """Seconds a real one-token answer takes; concurrent callers share one. Raises ``ClientError``."""
        if self._canary is None or self._canary.done():
            self._canary = asyncio.ensure_future(self._generate_one())
        return await asyncio.shield(self._canary)

    async def _generate_one(self) -> float:
        begin = time.monotonic()
        options, timeouts = Options(max_tokens=1, temperature=0.0), Timeouts(first_token=10.0, total=15.0)
        ask = Ask("Hello", options, stream=False, timeouts=timeouts, retry=NO_RETRY)
        async with AsyncGrpcStream(Channels([self._channel]), request_ids(), ask) as stream:
            async for chunk in stream:
                if chunk.finish_reason in ("stop", "length"):
                    return time.monotonic() - begin
        raise StreamCut("engine: the canary's answer did not end")
