"""Ready means warm: before readiness an engine runs every kernel that a request can reach.

GPU engines compile some kernels at their first use, and those of sampling only when several rows are sampled at once:
the first 64 requests under Qwen2.5's own sampling defaults waited 8.3 s on an H100 with vLLM 0.24, all of them after
"ready" (docs/benchmarks.md). So a few short generations go through the runtime first: one row, several rows of every
kind of sampling, a wide batch, many likely tokens, a prompt longer than one step (chunked prefill), and the same
prompt again (prefix cache). Their deltas reach nobody.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Iterator, Sequence

from contract.errors import EngineUnavailable, ServingError
from contract.sampling import ANY_OBJECT, Guide, Sampling
from serving.runtimes.base import EngineRequest, OnDeath, OnStep, Runtime, SequenceDelta

log = logging.getLogger(__name__)

TOKENS = 4  # per generation: the first comes from a prefill, the others from decoding steps
WIDE = 64  # rows of the widest batch
SHORT_PROMPT = 64  # tokens
MANY_ROWS = 8  # from here on vLLM limits seeded rows by kernels of Triton's, one for top_k and one for both limits
PATIENCE_SECONDS = 300.0  # per part; on GPUs the longest took 9 s, on a busy CPU prefill is slow
DEFAULTS = Sampling(max_tokens=TOKENS, temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05)  # Qwen2.5's own
# By the capability that a runtime needs for it; "" needs none.
KINDS: tuple[tuple[str, Sampling], ...] = (
    ("", Sampling(max_tokens=TOKENS, temperature=0.0)),
    ("", Sampling(max_tokens=TOKENS, temperature=1.0)),
    ("", Sampling(max_tokens=TOKENS, temperature=1.0, top_p=0.9)),
    ("", Sampling(max_tokens=TOKENS, temperature=1.0, top_k=40)),
    ("repetition_penalty", DEFAULTS),
    ("min_p", Sampling(max_tokens=TOKENS, min_p=0.1)),
    ("presence_penalty", Sampling(max_tokens=TOKENS, presence_penalty=0.5)),
    ("frequency_penalty", Sampling(max_tokens=TOKENS, frequency_penalty=0.5)),
    ("seed", Sampling(max_tokens=TOKENS, seed=1)),
    ("min_tokens", Sampling(max_tokens=TOKENS, min_tokens=2)),
    ("bad_words", Sampling(max_tokens=TOKENS, bad_words=((5,), (6, 7)))),
    ("logit_bias", Sampling(max_tokens=TOKENS, logit_bias=((5, 1.0),))),
    ("allowed_token_ids", Sampling(max_tokens=TOKENS, allowed_token_ids=(5, 6, 7))),
    ("logprobs", Sampling(max_tokens=TOKENS, temperature=0.0, logprobs=1)),
    ("top_logprobs", Sampling(max_tokens=TOKENS, logprobs=6)),
    ("return_prompt_log_probs", Sampling(max_tokens=TOKENS, temperature=0.0, prompt_logprobs=2)),
    ("guide:regex", Sampling(max_tokens=TOKENS, guide=Guide("regex", "[a-z]{1,40}"))),
    ("guide:json", Sampling(max_tokens=TOKENS, guide=Guide("json", ANY_OBJECT))),
)


class WarmUp:
    """Stands between a runtime and its listener until ``run`` is over; after that deltas pass straight through."""

    def __init__(self, on_step: OnStep, on_death: OnDeath) -> None:
        self._on_step, self._on_death = on_step, on_death
        self._ids = itertools.count(-1, -1)  # the listener's own are positive
        self._open: set[int] = set()
        self._errors: list[str] = []
        self._changed = threading.Condition()
        self._dead = ""
        self._over = False

    def on_step(self, deltas: list[SequenceDelta]) -> None:
        if self._over:
            self._on_step(deltas)
            return
        with self._changed:
            for delta in deltas:
                if delta.finish_reason:
                    self._open.discard(delta.sequence_id)
                if delta.error:
                    self._errors.append(delta.error)
            self._changed.notify()

    def on_death(self, reason: str) -> None:
        with self._changed:
            self._dead = reason
            self._changed.notify()
        self._on_death(reason)

    def run(self, runtime: Runtime, prompt_tokens: int | None) -> None:
        """Generations with prompts a little longer than ``prompt_tokens``; ``None`` leaves the engine cold.

        Each part has ``PATIENCE_SECONDS`` and says how long it took. Raises ``EngineUnavailable`` when the engine
        fails or a part is not over in time."""
        started = time.monotonic()
        parts = [] if prompt_tokens is None else list(_parts(runtime, prompt_tokens))
        for name, requests in parts:
            began = time.monotonic()
            self._finish(runtime, name, requests)
            log.info("warm-up: %s, %d generations in %.1f s", name, len(requests), time.monotonic() - began)
        self._over = True
        if parts:
            log.info("warm-up: done in %.1f s", time.monotonic() - started)

    def _finish(self, runtime: Runtime, name: str, requests: Sequence[tuple[list[int], Sampling]]) -> None:
        for prompt, sampling in requests:
            number = next(self._ids)
            with self._changed:
                self._open.add(number)
            try:
                runtime.submit(EngineRequest(number, prompt, sampling, seeded=sampling.seed > 0))
            except ServingError as error:
                raise EngineUnavailable(f"engine: a warm-up request was refused ({name}: {error})") from error
        with self._changed:
            if not self._changed.wait_for(lambda: not self._open or self._dead, PATIENCE_SECONDS):
                raise EngineUnavailable(
                    f"engine: {len(self._open)} of {len(requests)} generations of the warm-up ({name}) had no end "
                    f"within {PATIENCE_SECONDS:.0f} s"
                )
        if self._dead or self._errors:
            raise EngineUnavailable(f"engine: it failed while warming up ({name}: {self._dead or self._errors[0]})")


def _parts(runtime: Runtime, prompt_tokens: int) -> Iterator[tuple[str, list[tuple[list[int], Sampling]]]]:
    """A name and what runs together under it."""
    limits = runtime.limits
    room = min(limits.max_input_len, limits.max_seq_len - TOKENS)

    def prompt(length: int, start: int = 0) -> list[int]:
        return [(start + 7 * i) % min(limits.vocab_size, 10_000) for i in range(max(1, min(length, room)))]

    kinds = [sampling for need, sampling in KINDS if not need or need in runtime.capabilities]
    defaults = DEFAULTS if "repetition_penalty" in runtime.capabilities else kinds[-1]
    yield "one row", [(prompt(16), defaults)]
    yield "every kind of sampling", [(prompt(24, at), each) for at, each in enumerate(kinds)][: limits.max_streams]
    if prompt_tokens < SHORT_PROMPT:  # an engine whose prefill is slow
        return
    yield "a wide batch", [(prompt(16, 100 + at), defaults) for at in range(min(WIDE, limits.max_streams))]
    if "seed" in runtime.capabilities:
        for top_p in (1.0, 0.9):
            many = Sampling(max_tokens=TOKENS, top_k=100, top_p=top_p, seed=1)
            yield (
                f"many likely tokens, top_p {top_p}",
                [(prompt(16, 200 + at), many) for at in range(min(MANY_ROWS, limits.max_streams))],
            )
    for name in ("a prompt in chunks", "the same from the prefix cache"):
        yield name, [(prompt(prompt_tokens + prompt_tokens // 4), defaults)]
