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
from serving.detokenizer import scale
from serving.detokenizer.answers import Answers
from serving.detokenizer.step import Detokenizer
from serving.detokenizer.text import TokenBytes
from serving.triton import io as triton_io
from serving.triton.settings import StepSettings

log = logging.getLogger(__name__)


class DetokenizerStep:
    """Triton's thread takes first chunks, threads of its own what the feeds bring."""

    def __init__(self, instance: str) -> None:
        """``instance``: Triton's name for it, which ends with its number."""
        process = int(instance.rpartition("_")[2])
        triton_io.start(f"detokenizer-{process}" if process else "detokenizer")
        settings = StepSettings.from_environment()
        self._seal = Seal.of_run(settings.run_dir)
        self._path = settings.ack_table
        table = TokenBytes.load(settings.engine_dir / "tokenizer.json")
        threads = scale.threads(len(os.sched_getaffinity(0)))
        feeds = range(process * threads, (process + 1) * threads)
        self._detokenizer = Detokenizer(table, lambda: AckTable(self._path), feeds)
        self._answers = Answers(self._detokenizer)
        for number in feeds:
            reader = feed.FeedReader(settings.run_dir, number)
            threading.Thread(target=self._read, args=(reader,), name=f"feed-{number}", daemon=True).start()
        threading.Thread(target=self._beat, args=(process,), name="beat", daemon=True).start()

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

    def _read(self, reader: feed.FeedReader) -> None:
        try:
            while True:
                for kind, words in reader.frames():
                    self._answers.feed(kind, words)
        except Exception:
            log.exception("the feed broke")
            os._exit(1)  # without it this process would open answers and never go on: the launcher starts anew

    def _beat(self, process: int) -> None:
        while not self._path.exists():  # made by the engine step, which loads beside this one
            time.sleep(BEAT_SECONDS)
        while True:
            self._detokenizer.ack_table.beat(process)
            time.sleep(BEAT_SECONDS)


class TritonReply:
    """``serving.detokenizer.answers.Reply`` over a decoupled request's response sender."""

    __slots__ = ("_sender",)

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()

    def is_gone(self) -> bool:
        cancelled: bool = self._sender.is_cancelled()
        return cancelled

    def send(self, chunks: list[Chunk], final: bool) -> None:
        triton_io.send(self._sender, triton_io.outputs(chunks), final)

    def fail(self, error: ServingError) -> None:
        triton_io.send(self._sender, triton_io.failed(error), final=True)

    def drop(self) -> None:
        triton_io.end(self._sender)
