"""The detokenizer step: its open answers and the threads that feed them, in one Triton Python model."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

from contract import feed
from contract.ack_table import BEAT_SECONDS, AckTable
from contract.chunks import Chunk
from contract.errors import ServingError
from contract.seal import Seal
from serving.detokenizer.answers import Answers
from serving.detokenizer.step import Detokenizer
from serving.detokenizer.text import TokenBytes
from serving.triton import io as triton_io
from serving.triton.settings import StepSettings

log = logging.getLogger(__name__)


class DetokenizerStep:
    """Triton's thread takes first chunks, a thread of its own what the feed brings."""

    def __init__(self, instance: str) -> None:
        """``instance``: Triton's name for it, which ends with its number."""
        reader = int(instance.rpartition("_")[2])
        triton_io.start(f"detokenizer-{reader}" if reader else "detokenizer")
        settings = StepSettings.from_environment()
        self._seal = Seal.of_run(settings.run_dir)
        self._path = settings.ack_table
        table = TokenBytes.load(settings.engine_dir / "tokenizer.json")
        self._detokenizer = Detokenizer(table, lambda: AckTable(self._path), reader)
        self._answers = Answers(self._detokenizer)
        self._feed = feed.FeedReader(settings.run_dir, reader)
        threading.Thread(target=self._read, name="feed", daemon=True).start()
        threading.Thread(target=self._beat, args=(reader,), name="beat", daemon=True).start()

    def execute(self, requests: list[Any]) -> None:
        """Each request is answered by itself: an error never fails the batch, which holds other people's chunks."""
        for request in requests:
            reply = TritonReply(request)
            try:
                words = triton_io.chunk_words(request, self._seal)
            except ServingError as error:
                reply.fail(error)
            else:
                self._answers.receive(words, reply)

    def _read(self) -> None:
        try:
            while True:
                for kind, words in self._feed.frames():
                    self._answers.feed(kind, words)
        except Exception:
            log.exception("the feed broke")
            os._exit(1)  # without it this process would open answers and never go on: the launcher starts anew

    def _beat(self, reader: int) -> None:
        while not self._path.exists():  # made by the engine step, which loads beside this one
            time.sleep(BEAT_SECONDS)
        while True:
            self._detokenizer.ack_table.beat(reader)
            time.sleep(BEAT_SECONDS)


class TritonReply:
    """``serving.detokenizer.answers.Reply`` over a decoupled request's response sender."""

    __slots__ = ("_sender",)

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()

    def send(self, chunks: list[Chunk], final: bool) -> None:
        triton_io.send(self._sender, triton_io.outputs(chunks), final)

    def fail(self, error: ServingError) -> None:
        triton_io.send(self._sender, triton_io.failed(error), final=True)

    def drop(self) -> None:
        triton_io.end(self._sender)
