"""The process that owns the CPU engine: ``python -m serving.runtimes.openvino.worker FD``.

Messages are pickled tuples over a socket pair, both ends being this program's own. To the worker: ``("start", engine,
options)`` once, then ``("submit", request)``, ``("abort", sequence_id)``, ``("close",)``. From it:
``("ready", limits, stats)`` or ``("failed", reason)``, then ``wire``'s bytes after each step that has news.
End of file on the socket means that the parent is gone: the worker leaves at once, in the middle of a step too.
(PR_SET_PDEATHSIG would do it as well, but fires when the parent's *thread* that started the worker ends.)
"""

from __future__ import annotations

import gc
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from contract import engine_dir, heartbeat, lifeline
from contract.engine_dir import EngineInfo
from contract.errors import InvalidRequest, to_wire
from contract.model_shape import ModelShape
from contract.sampling import Sampling
from serving import background
from serving.runtimes.base import EngineRequest, RuntimeLimits, RuntimeOptions, RuntimeStats, SequenceDelta
from serving.runtimes.openvino import timeslice, wire
from serving.runtimes.openvino.blocks import BLOCK_TOKENS, BlockPool, blocks_for
from serving.runtimes.openvino.drafts import ALWAYS
from serving.runtimes.openvino.endings import Ending
from serving.runtimes.openvino.engine import GUIDE, Engine
from serving.runtimes.openvino.guides import Grammars
from serving.runtimes.openvino.model import PagedModel
from serving.runtimes.openvino.sampling import GrammarState
from serving.runtimes.openvino.settings import attention_span

DEFAULT_KV_BYTES = 1 << 30
WARM_UP_PROMPT = 24  # tokens: less than a KV block
KV_CONTEXTS = 2  # default KV memory: at least this many longest streams …
KV_FRACTION = 0.4  # … but no more of the free memory than this
STATS_SECONDS = 0.05  # between two reports while the same sequences run

log = logging.getLogger("openvino")


class EngineWorker:
    def __init__(self, connection: Connection, engine: EngineInfo, options: RuntimeOptions) -> None:
        self._connection = connection
        self._inbox: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._guided: queue.SimpleQueue[EngineRequest] = queue.SimpleQueue()
        self._reported_load, self._next_report = (0, 0), 0.0
        self._handing_over = threading.Lock()  # an abort must not overtake its sequence
        self._compiling: set[int] = set()
        self._given_up: set[int] = set()  # aborted while their grammar compiles
        with ThreadPoolExecutor(1) as pool:  # the token trie holds the GIL, compiling does not: side by side
            grammars: Future[Grammars] = pool.submit(_grammars, engine)
            precision = "fp32" if options.exact else engine.precision  # of the arithmetic: weights are what they are
            model = PagedModel(engine.path / "openvino_model.xml", precision, options.threads)
            self._grammars = grammars.result()
        blocks = kv_blocks(model.block_bytes, engine.limits.max_seq_len, options.kv_cache_bytes)
        context = min(engine.limits.max_seq_len, blocks * BLOCK_TOKENS)
        model.allocate(blocks, context)
        if context < engine.limits.max_seq_len:
            log.warning("KV memory holds %d tokens: that is the context now; KV_CACHE_GB gives it more", context)
        self.limits = RuntimeLimits(
            context, min(engine.limits.max_input_len, context - 1), model.vocab_size, options.max_streams
        )
        speculate = options.speculate and model.draft_terms is not None
        for drafts in (False, speculate)[: 1 + speculate]:  # lone streams pause drafting where it does not pay
            warm_up(Engine(model, BlockPool(blocks), 2, context, drafts=drafts))
        shape = ModelShape.of(json.loads((engine.path / "config.json").read_text(encoding="utf-8")))
        self._engine = Engine(
            model, BlockPool(blocks), options.max_streams, context, self._grammars.end_ids,
            drafts=speculate, draft_terms=model.draft_terms or ALWAYS, attention_span=attention_span(shape),
        )  # fmt: skip

    def run(self) -> None:
        """Step while there is work; return on ``close``."""
        if run_dir := os.environ.get("RUN_DIR"):  # the launcher's: it watches whatever beats there
            lifeline.hold_on(Path(run_dir))
            heartbeat.start(Path(run_dir) / f"openvino{heartbeat.SUFFIX}")
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        self._connection.send(("ready", self.limits, self._engine.stats()))
        gc.freeze()  # what is there now stays: the collector need not look at it again between two tokens
        while True:
            deltas = self._take_messages(wait=not self._engine.busy)
            if deltas is None:
                return
            deltas += self._engine.step()
            stats = self._news()
            if deltas or stats:
                self._connection.send_bytes(wire.pack(deltas, stats))

    def _news(self) -> RuntimeStats | None:
        """The engine's counters, at once when a sequence came or went, else now and then."""
        now, load = time.monotonic(), self._engine.load
        if load == self._reported_load and now < self._next_report:
            return None
        self._reported_load, self._next_report = load, now + STATS_SECONDS
        return self._engine.stats()

    def _read(self) -> None:
        """The reader thread. A third one compiles grammars, so that they delay neither a step nor others."""
        compiler = threading.Thread(target=self._compile, name="grammars", daemon=True)
        compiler.start()
        try:
            while True:
                message = self._connection.recv()
                with self._handing_over:
                    if message[0] == "submit" and message[1].sampling.guide:
                        self._compiling.add(message[1].sequence_id)
                        self._guided.put(message[1])
                    elif message[0] == "abort" and message[1] in self._compiling:
                        self._given_up.add(message[1])
                    else:
                        self._inbox.put(message)
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone

    def _compile(self) -> None:
        """The grammar thread. An abort that comes while a grammar compiles is kept until the sequence is known."""
        background.give_way()
        while True:
            request = self._guided.get()
            message = self._with_grammar(request)
            with self._handing_over:
                self._compiling.discard(request.sequence_id)
                self._inbox.put(message)
                if request.sequence_id in self._given_up:
                    self._given_up.discard(request.sequence_id)
                    self._inbox.put(("abort", request.sequence_id))

    def _with_grammar(self, request: EngineRequest) -> tuple[Any, ...]:
        guide = request.sampling.guide
        assert guide is not None
        complete = request.sampling.guided_decoding_complete
        try:
            grammar = self._grammars.start(guide)
            ending = self._grammars.ending(guide, grammar, request.sampling.max_tokens) if complete else None
            return "submit", request, grammar, ending
        except (ValueError, InvalidRequest) as error:
            if guide.optional and not complete:
                log.info("sequence %d goes without its optional guide: %s", request.sequence_id, error)
                return "submit", request
            refusal = to_wire(error if isinstance(error, InvalidRequest) else InvalidRequest(GUIDE, str(error)))
            return "refuse", SequenceDelta(request.sequence_id, (), 0, "error", error=refusal)

    def _take_messages(self, wait: bool) -> list[SequenceDelta] | None:
        deltas: list[SequenceDelta] = []
        while wait or not self._inbox.empty():
            message = self._inbox.get()
            wait = False
            if message[0] == "submit":
                deltas += self._submit(*message[1:])
            elif message[0] == "abort":
                ended = self._engine.abort(message[1])
                deltas += [ended] if ended else []
            elif message[0] == "refuse":
                deltas.append(message[1])
            elif message[0] == "close":
                return None
        return deltas

    def _submit(
        self, request: EngineRequest, grammar: GrammarState | None = None, ending: Ending | None = None
    ) -> list[SequenceDelta]:
        try:
            self._engine.submit(request, grammar, ending)
        except ValueError as error:
            refusal = to_wire(InvalidRequest("resume_ids", f"{error}; send what the first attempt made"))
            return [SequenceDelta(request.sequence_id, (), 0, "error", error=refusal)]
        return []


def warm_up(engine: Engine) -> None:
    """Prompt and decode steps once: the first of a shape compiles its kernels."""
    for number in range(2):  # together as long as a prefill step, then short ones: both of the model's arithmetics
        engine.submit(EngineRequest(number, [0] * WARM_UP_PROMPT, Sampling(max_tokens=2 + number, temperature=0.0)))
    while engine.busy:
        engine.step()


def kv_blocks(block_bytes: int, max_seq_len: int, wanted: int | None) -> int:
    """How many KV blocks to make: what was asked for, or a default that holds ``KV_CONTEXTS`` longest streams."""
    if wanted is None:
        longest = KV_CONTEXTS * blocks_for(max_seq_len) * block_bytes
        wanted = min(max(DEFAULT_KV_BYTES, longest), int(KV_FRACTION * psutil.virtual_memory().available))
    return max(2, wanted // block_bytes)


def _grammars(engine: EngineInfo) -> Grammars:
    return Grammars(engine.path / "tokenizer.json", engine.model.vocab_size, list(engine_dir.end_ids(engine.path)))


def main(descriptor: int) -> None:
    logging.basicConfig(level=logging.INFO, format="openvino worker: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal: the parent decides when to end
    timeslice.shorten()
    connection = Connection(descriptor)
    _, engine, options = connection.recv()
    try:
        worker = EngineWorker(connection, engine, options)
    except (RuntimeError, OSError, ValueError, KeyError, MemoryError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        connection.send(("failed", lines[-1] if lines else type(error).__name__))
        return
    worker.run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
