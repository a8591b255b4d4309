"""One answer in progress: its calls to Triton, their responses, the client's connection. The gateway's hot path.

One task per request reads raw protobuf responses and writes bytes; a second only waits for the client to disconnect.
Everything that ends an answer early (disconnect, timeout, shutdown) goes through ``stop``, which frees the engine's
slots at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import grpc

from client import kserve
from client.errors import ClientError, StreamCut
from client.grpc_aio import AioChannel
from client.sequences import breaks_off
from contract.packed import SequenceOutput
from serving.gateway.core.answer_context import AnswerContext, AnswerTimes
from serving.gateway.core.attempts import Attempts
from serving.gateway.core.choices import ChoiceState
from serving.gateway.core.off_loop import off_loop
from serving.gateway.core.plan import BYTES_PER_TOKEN, GenerationPlan, prompt_estimate
from serving.gateway.core.prompt_scores import entry
from serving.gateway.core.render.base import KEEP_ALIVE, BodyRenderer, StreamRenderer, Usage
from serving.gateway.core.restart import RestartWait
from serving.gateway.core.share.turn import EngineTurn, Work
from serving.gateway.core.token_logprobs import TokenLogprobs
from serving.gateway.core.writer import Gone, Writer

SCORE_BYTES = 8  # bytes of JSON and Python objects per byte of a prompt's scores


class Answer:
    """``run`` generates it; ``stop`` may be called from anywhere on the event loop."""

    def __init__(
        self, context: AnswerContext, plan: GenerationPlan, answer_id: str, renderer: StreamRenderer | BodyRenderer,
        writer: Writer, timing: AnswerTimes, metadata: Sequence[tuple[str, str]] = (), tenant: int = 0,
    ) -> None:  # fmt: skip
        """``tenant``: whose share of the engine it uses."""
        self.id, self.plan, self.writer, self.timing = answer_id, plan, writer, timing
        self.renderer = renderer
        self._context, self._metadata = context, metadata
        self.choices = [self._choice(index) for index in range(plan.choices)]
        self._tenant = tenant
        self._turns: set[EngineTurn] = set()
        self._sent: set[int] = set()  # prompts that have reached the engine
        self._calls: dict[str, tuple[AioChannel, Any]] = {}
        self._stopped: Exception | None = None
        self.failed: int | None = None  # the prompt whose call failed first
        self._prompt_tokens = [0] * len(plan.prompts)
        self._cached_tokens = [0] * len(plan.prompts)
        self.restart = RestartWait(answer_id, context.is_back, context.first_token_seconds)

    def _choice(self, index: int) -> ChoiceState:
        plan, text = self.plan, self._context.token_text
        echoed = plan.options.top_logprobs if plan.echoes_scores else None
        return ChoiceState(
            index,
            parser=plan.parser() if plan.parser else None,
            logprobs=TokenLogprobs(text, chat=plan.chat, echoed_tops=echoed, by_id=plan.named_by_id)
            if plan.options.logprobs
            else None,
            stops=plan.options.stop if plan.names_stop else (),
            keeps_stop=plan.options.include_stop,
            passes_stops=bool(plan.options.min_tokens),
            may_stop=bool(plan.options.stop or plan.options.stop_token_ids),
            prompt_entry=None if plan.prompt_logprobs is None else partial(entry, plan.prompt_logprobs, text),
        )

    @property
    def prompt_tokens(self) -> int:
        return sum(self._prompt_tokens)

    @property
    def output_tokens(self) -> int:
        return sum(choice.tokens for choice in self.choices)

    def used_tokens(self, reserved: int) -> int:
        """What its key pays for. A client that leaves before the engine has reported a count pays an estimate of the
        prompts that were sent, or, for answers that are not streamed, what was reserved."""
        used = self.prompt_tokens + self.output_tokens
        if not isinstance(self._stopped, Gone):
            return used
        unnamed = [prompt for prompt in self._sent if not self._prompt_tokens[prompt]]
        if unnamed and not self.plan.in_pieces:
            return max(used, reserved)
        return used + sum(prompt_estimate(self.plan.prompts[prompt]) for prompt in unnamed)

    @property
    def waits_its_turn(self) -> bool:
        """None of its calls has reached the engine yet."""
        return bool(self._turns) and not any(turn.began for turn in self._turns)

    @property
    def waiting_for_first(self) -> bool:
        return self.timing.first == 0.0

    async def run(self) -> None:
        """Generate and send the answer. Raises ``ClientError``, ``ApiError`` or ``Gone``, leaving no call open."""
        try:
            if len(self.plan.prompts) == 1:
                await self._call(0)
            else:
                await self._all()
        except BaseException as error:
            self.stop(error if isinstance(error, Exception) else Gone())
            raise
        used, renderer = Usage(self.prompt_tokens, self.output_tokens, sum(self._cached_tokens)), self.renderer
        if self.plan.keep:  # before the client learns of the end: its next request may refer to it
            await asyncio.to_thread(self.plan.keep, renderer.kept(used))
        if isinstance(renderer, StreamRenderer):
            await self.writer.event(renderer.end(used))
            await self.writer.end()
        else:
            await self.writer.whole(await off_loop(self._scored_bytes, lambda: renderer.body(used)))

    async def _all(self) -> None:
        tasks = [asyncio.ensure_future(self._call(i)) for i in range(len(self.plan.prompts))]
        try:
            await asyncio.gather(*tasks)
        except BaseException as error:
            self.stop(error if isinstance(error, Exception) else Gone())
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    def work(self, prompt: int) -> Work:
        """What the engine is asked for one of the prompts."""
        options = self.plan.options
        tokens = prompt_estimate(self.plan.prompts[prompt])
        most, priority = options.max_tokens or 0, options.priority or 0
        return Work(self._tenant, options.n, tokens, most, self.plan.in_pieces, priority)

    async def _call(self, prompt: int) -> None:
        if self._stopped:
            raise self._stopped
        turn = self._context.scheduler.ask(self.work(prompt))
        self._turns.add(turn)
        try:
            await turn.come()
            await self._generate(prompt, turn)
        except ClientError:
            self.failed = prompt if self.failed is None else self.failed
            raise
        finally:
            self._leave(turn, prompt)

    def _leave(self, turn: EngineTurn, prompt: int) -> None:
        """The engine is done with this call."""
        if turn in self._turns:
            self._turns.discard(turn)
            turn.leave(self._used(prompt), [choice.tokens for choice in self._choices_of(prompt) if choice.finish])

    def _used(self, prompt: int) -> int | None:
        """Tokens that one call has cost the engine; ``None`` when it was left before the engine said so."""
        if not self._prompt_tokens[prompt]:
            return None
        made = sum(choice.tokens for choice in self._choices_of(prompt))
        return self._prompt_tokens[prompt] - self._cached_tokens[prompt] + made

    async def _generate(self, prompt: int, turn: EngineTurn) -> None:
        """Make attempts until the answer ends."""
        request_id = self.id if len(self.plan.prompts) == 1 else f"{self.id}-{prompt}"
        channels, n = self._context.channels, self.plan.options.n
        attempts = Attempts(request_id, len(channels.all), self.restart, lambda: self._stopped)
        while True:
            channel, failed = channels.pick(), False
            try:
                await self._attempt(channel, attempts.request_id, prompt, turn, attempts.ids)
                return
            except ClientError as error:
                failed = breaks_off(error)
                first = self._choices_of(prompt)[0]
                ids = first.resume() if n == 1 and first.can_go_on else None
                if not await attempts.again(error, ids, has_several=n > 1 and self.output_tokens > 0):
                    if self._stopped:
                        raise self._stopped from error
                    raise
            finally:
                channels.left(channel, failed=failed)

    async def _attempt(
        self, channel: AioChannel, request_id: str, prompt: int, turn: EngineTurn, ids: Sequence[int]
    ) -> None:
        size = BYTES_PER_TOKEN * (turn.work.prompt + len(ids))
        request = await off_loop(size, partial(self.plan.infer_request, request_id, prompt, channel.model, ids))
        if self._stopped:
            raise self._stopped
        self._sent.add(prompt)
        if not self.timing.sent:
            self.timing.sent = time.monotonic()
            self._context.metrics.queue.observe(self.timing.sent - self.timing.arrived)
        call = channel.call(request, self._context.request_seconds, self._metadata)
        self._calls[request_id] = channel, call
        try:
            await self._read(call, prompt, turn)
        except grpc.RpcError as error:
            raise self._stopped or channel.error(error) from None
        except asyncio.CancelledError:
            if self._stopped:  # ``stop`` cancelled the call; this task itself was not cancelled
                raise self._stopped from None
            raise
        finally:
            if call.done() or all(c.finish for c in self._choices_of(prompt)):
                self._calls.pop(request_id, None)
        if not all(c.finish for c in self._choices_of(prompt)):
            raise self._stopped or StreamCut("engine: the answer ended without a finish reason; try again")

    def _choices_of(self, prompt: int) -> list[ChoiceState]:
        n = self.plan.options.n
        return self.choices[prompt * n : (prompt + 1) * n]

    def _seen(self, got: SequenceOutput, prompt: int) -> ChoiceState:
        """Record counts and times of one response; returns the choice it belongs to."""
        now, timing, metrics = time.monotonic(), self.timing, self._context.metrics
        if timing.first:
            metrics.itl.observe(now - timing.chunk)
        elif got.completion_tokens or got.finish:  # scores of the prompt come before the first token
            timing.first = now
            if self.plan.in_pieces:  # otherwise the first message is also the last
                metrics.ttft.observe(now - timing.read)
        timing.chunk = now
        self._prompt_tokens[prompt], self._cached_tokens[prompt] = got.prompt_tokens, got.cached_tokens
        return self.choices[prompt * self.plan.options.n + got.sequence_index]

    async def _read(self, call: Any, prompt: int, turn: EngineTurn) -> None:
        """Forward everything one call yields to the client."""
        renderer, write = self.renderer, self.writer.event
        plain = renderer.plain if isinstance(renderer, StreamRenderer) else None
        async for message in call:
            got = kserve.output(message)
            if got is None:
                continue
            choice = self._seen(got, prompt)
            if got.completion_tokens or got.finish:
                turn.first_token()
            if plain:
                data = plain(choice.index, got.text, choice.check(got))
            elif got.prompt:
                data = await off_loop(SCORE_BYTES * len(got.prompt), partial(self._render, choice, got, prompt))
            else:
                data = self._render(choice, got, prompt)
            if got.finish and all(c.finish for c in self._choices_of(prompt)):
                self._leave(turn, prompt)  # before the last write: the next request takes time to reach the engine
            if data:
                await write(data)

    def _render(self, choice: ChoiceState, got: SequenceOutput, prompt: int) -> bytes:
        """What one response adds to a stream; ``b""`` for an answer that is sent whole."""
        update, renderer = choice.update(got), self.renderer
        if isinstance(renderer, StreamRenderer):
            used = Usage(self._prompt_tokens[prompt], choice.tokens, self._cached_tokens[prompt])
            return renderer.update(choice.index, update, used)
        renderer.update(choice.index, update)
        return b""

    @property
    def _scored_bytes(self) -> int:
        """Roughly the size of the prompts' scores in a body."""
        options = self.plan.options
        return 64 * self.prompt_tokens * (1 + options.prompt_top_logprobs) if options.prompt_logprobs else 0

    def stop(self, reason: Exception) -> None:
        """End the answer with ``reason`` and free its slots. Returns at once; idempotent."""
        if self._stopped is None:
            self._stopped = reason
        for turn in self._turns:
            turn.cancel(reason)
        calls, self._calls = self._calls, {}
        for request_id, (channel, call) in calls.items():
            if not call.done() or not isinstance(reason, ClientError):  # else it already failed in the engine
                channel.stop(request_id)
            call.cancel()

    async def keep_alive(self) -> None:
        if self._stopped is None:
            await self.writer.event(KEEP_ALIVE)
