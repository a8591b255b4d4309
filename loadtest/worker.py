"""One generator process: sends its share of the plan, stamps every message and reports once a second.

Open loop: a pacer starts one greenlet per arrival at its time, whatever the server does. Closed loop: a greenlet per
user converses. Requests run in greenlets of their own in both, so that what is in flight when the run stops can be
counted, never lost. Figures leave this process as deltas: histograms and counts, not samples.

The users of a closed loop are ours, not Locust's. Locust starts users by a ramp of its own, adds some in mid-run and
moves them to a worker that joins late, so they would not be those of the plan.
"""

from __future__ import annotations

import gc
import itertools
import math
import random
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event

from loadtest.aggregate import Lane
from loadtest.arrivals import shard
from loadtest.errors import TransportError
from loadtest.own_load import OwnLoad
from loadtest.plan import RunPlan
from loadtest.record import Outcome, Record
from loadtest.scenarios.base import Conversation, Request, request_number
from loadtest.transports import open_transport
from loadtest.transports.base import Transport
from loadtest.transports.dialect import Dialect

REPORT_S = 1.0
PAUSE_AFTER_FAILURE_S = 0.5  # a closed-loop user must not hammer a dead server
SETTLE_S = 2.0  # greenlets that were told to stop get this long

Send = Callable[[dict[str, Any]], None]
Fire = Callable[[Record, TransportError | None], None]


class LoadWorker:
    def __init__(
        self,
        plan: RunPlan,
        *,
        index: int,
        count: int,
        epoch: float,
        sse_model: str,
        packed: bool,
        dialect: Dialect,
        send: Send,
        fire: Fire,
    ) -> None:
        """``epoch`` is the run's second 0 as ``time.time()``; ``send`` takes a report, ``fire`` feeds Locust."""
        self.plan, self.index, self.count = plan, index, count
        self._send, self._fire = send, fire
        self._epoch = time.monotonic() + epoch - time.time()
        self._transports: dict[str, Transport] = {
            lane: open_transport(lane, plan, sse_model, packed=packed, dialect=dialect) for lane in plan.lanes
        }
        self._lanes = {lane: Lane() for lane in plan.lanes}
        self._running: dict[int, Record] = {}
        self._greenlets: set[gevent.Greenlet] = set()
        self._helpers: list[gevent.Greenlet] = []
        self._done: list[Record] = []
        self._conversations = itertools.count(index, count)
        self._messages = 0
        self._own_load = OwnLoad(self.now, plan.warmup, plan.end)
        self._stopped = self._on_time = False
        self._share = plan.share(index, count)
        self._sent = Event()  # all of a number of requests; a run of a certain time never sets it
        if self._share == 0:
            self._sent.set()

    def start(self) -> None:
        gc.collect()
        gc.freeze()  # a full collection of all that exists now would stop the loop for tens of milliseconds
        jobs = [self._own_load.watch, self._report_forever, self._close_on_time]
        jobs += [self._pace] if self.plan.process.is_open else []
        users = () if self.plan.process.is_open else range(self.index, self.plan.users, self.count)
        self._helpers = [gevent.spawn(job) for job in jobs] + [gevent.spawn(self._converse, user) for user in users]

    def now(self) -> float:
        return time.monotonic() - self._epoch

    # --- what is sent -------------------------------------------------------------------------------------------

    def _pace(self) -> None:
        scenario = self.plan.load
        for t, group in itertools.groupby(
            shard(self.plan.schedule(), self.index, self.count), key=lambda item: item[1]
        ):
            ready = [(number, request_number(scenario, number)) for number, _ in group]  # built before their time
            gevent.sleep(max(0.0, t - self.now()))
            for number, request in ready:
                self._launch(number, request, t)
        if self.plan.requests is not None:
            self._sent.set()

    def _converse(self, seed: int) -> None:
        """One closed-loop user until the run ends: conversations, their turns in order, real answers as history."""
        scenario, rng = self.plan.load, random.Random(f"{self.plan.seed}:user:{seed}")
        self._sleep_until(0.0)
        while not self._over:
            number = next(self._conversations)
            self._sleep_until(_next_period(self.now(), scenario.period_s))
            if not self._talk(scenario.conversation(number), rng):
                gevent.sleep(PAUSE_AFTER_FAILURE_S)

    def _talk(self, conversation: Conversation, rng: random.Random) -> bool:
        """False when a turn failed or the run ended: the rest of the conversation would make no sense."""
        answers: list[str] = []
        turns = self.plan.load.turns
        for turn in range(turns):
            if self._over:
                return True
            request = conversation.request(turn, answers)
            texts: list[str] = []
            greenlet = self._launch(conversation.number * turns + turn, request, self.now(), texts)
            greenlet.join()
            if not texts:
                return False
            answers.extend(texts)
            gevent.sleep(self.plan.load.think(rng))
        return True

    @property
    def _over(self) -> bool:
        """Whether no more requests may start."""
        return self._stopped or self._sent.is_set() or self.now() >= self.plan.end

    def _sleep_until(self, t: float) -> None:
        gevent.sleep(max(0.0, t - self.now()))

    # --- one request --------------------------------------------------------------------------------------------

    def _launch(self, number: int, request: Request, t: float, answer: list[str] | None = None) -> gevent.Greenlet:
        record = Record(
            number, request.scenario, self._lane_of(request), self.plan.warmup <= t < self.plan.end, t,
            conversation=request.conversation, turn=request.turn, worker=self.index,
            requested_tokens=request.max_tokens,
        )  # fmt: skip
        self._lanes[record.transport].scheduled(record.measured)
        if record.measured and self._share is not None:
            self._share -= 1
            if not self._share:
                self._sent.set()
        self._running[number] = record
        greenlet = gevent.spawn(self._run, number, record, request, answer)
        self._greenlets.add(greenlet)
        greenlet.rawlink(self._greenlets.discard)
        return greenlet

    def _lane_of(self, request: Request) -> str:
        """Each transport gets whole conversations, in a pattern that does not align with any number of workers."""
        lanes = self.plan.lanes
        return lanes[request.conversation.bit_count() % len(lanes)]

    def _run(self, number: int, record: Record, request: Request, answer: list[str] | None) -> None:
        record.t_send = self.now()
        error: TransportError | None = None
        arrivals: list[float] = []
        try:
            end = self._transports[record.transport].stream(request, self._listener(record, request, arrivals))
            self._spread(record, end.completion_tokens - record.completion_tokens, arrivals)
            record.prompt_tokens, record.cached_tokens = end.prompt_tokens, end.cached_tokens
            record.completion_tokens, record.finish_reason = end.completion_tokens, end.finish_reason
            record.counted = end.counted
            outcome: Outcome = "cancelled" if end.left else "completed"
            if record.t_first is None and not end.left:
                raise TransportError("empty", "the stream ended without a token")
            if answer is not None:
                answer.append(end.text)
        except TransportError as caught:
            outcome, error = "failed", caught
        except Exception as caught:  # noqa: BLE001  the outermost boundary of a stream: counted by kind, never lost
            outcome, error = "failed", TransportError("protocol", f"{type(caught).__name__}: {caught}")
        self._finish(number, record, outcome, error)

    def _listener(self, record: Record, request: Request, arrivals: list[float]) -> Callable[[float, int], bool]:
        """The hot path: once per message. Local names, because an attribute look-up costs as much as the arithmetic."""
        epoch, lane_name, leave = self._epoch, record.transport, request.leave_after
        (start, end), measured, lanes = self._window(record), record.measured, self._lanes

        def on_message(stamp: float, tokens: int) -> bool:
            t = stamp - epoch
            arrivals.append(t)
            lane = lanes[lane_name]
            lane.message(int(t), tokens - record.completion_tokens, start <= t < end)
            if record.t_last is None:
                record.t_first = t
            else:
                gap = t - record.t_last
                if gap > record.longest_gap:
                    record.longest_gap = gap
                if measured:
                    lane.histograms["itl"].record(gap)
            record.t_last = t
            record.completion_tokens = tokens
            record.messages += 1
            self._messages += 1
            return leave is None or tokens < leave

        return on_message

    def _spread(self, record: Record, tokens: int, arrivals: list[float]) -> None:
        """Spread ``tokens`` that only the last usage reported evenly over the messages, for want of better knowledge.

        Below 0: the server put one token into several messages."""
        lane, count, given = self._lanes[record.transport], len(arrivals), 0
        start, end = self._window(record)
        for k, t in enumerate(arrivals if tokens else (), 1):
            share = tokens * k // count - given
            given += share
            lane.more_tokens(int(t), share, start <= t < end)

    def _finish(self, number: int, record: Record, outcome: Outcome, error: TransportError | None) -> None:
        if self._running.pop(number, None) is None:
            return  # the run stopped first and counted it as in flight
        record.outcome, record.t_end = outcome, self.now()
        if error is not None:
            record.error_kind, record.error = error.kind, error.message
        self._account(record)
        self._fire(record, error)

    def _account(self, record: Record) -> None:
        assert record.t_end is not None
        start, end = self._window(record)
        self._lanes[record.transport].finish(record, self.plan.limits, start <= record.t_end < end)
        self._done.append(record)

    def _window(self, record: Record) -> tuple[float, float]:
        """When arrivals count as throughput. With a number of requests, exactly what belongs to these counts."""
        if self.plan.requests is None:
            return self.plan.warmup, self.plan.end
        return (0.0 if record.measured else math.inf), math.inf

    # --- the end ------------------------------------------------------------------------------------------------

    def _close_on_time(self) -> None:
        sent = self._sent.wait(max(0.0, self.plan.end - self.now()))
        # The last of a number of requests ends like each before it: by itself, or by its time-out.
        until = self.now() + (self.plan.timeout + SETTLE_S if sent else self.plan.drain)
        while self._running and self.now() < until:
            gevent.sleep(0.05)
        self.stop(on_time=True)

    def stop(self, *, on_time: bool = False) -> None:
        """Count what is in flight, send the last report, close the connections. Idempotent."""
        if self._stopped:
            return
        self._stopped, self._on_time = True, on_time
        current = gevent.getcurrent()
        gevent.killall([g for g in self._helpers if g is not current], block=False)
        for record in list(self._running.values()):
            record.t_end = self.now()
            self._account(record)
        self._running.clear()
        self._send(self._report(final=True))
        for transport in self._transports.values():
            transport.close()
        gevent.killall(list(self._greenlets), timeout=SETTLE_S)

    # --- figures ------------------------------------------------------------------------------------------------

    def _report_forever(self) -> None:
        gevent.sleep(REPORT_S)
        while not self._stopped:  # a report after the last would take that back
            self._send(self._report(final=False))
            gevent.sleep(REPORT_S)

    def _report(self, *, final: bool) -> dict[str, Any]:
        """What happened since the last report, as plain data. Lanes are replaced: nothing is counted twice."""
        lanes, records = dict(self._lanes), self._done
        for name in self._lanes:
            self._lanes[name] = Lane()
        self._done = []
        return {
            "worker": self.index,
            "final": final,
            "interrupted": final and not self._on_time,
            "now": self.now(),
            "running": len(self._running),
            "lanes": {name: lane.to_wire() for name, lane in lanes.items()},
            "records": [record.to_wire() for record in records],
            "health": {**self._own_load.figures(), "messages": self._messages},
        }


def _next_period(now: float, period: float) -> float:
    return now if not period else (int(now / period) + 1) * period
