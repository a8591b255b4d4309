"""Triton's metrics, read every two seconds: passed on with the gateway's own, and the ground of Retry-After."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections import deque

import httpx
from prometheus_client.parser import text_string_to_metric_families

log = logging.getLogger(__name__)

EVERY = 2.0  # seconds
WINDOW = 15  # samples over which completions are counted: half a minute
NO_IDEA, LONGEST = 5, 60  # seconds to wait when no rate is known; and at most
_PASSED_ON = re.compile(r"^(?:# (?:HELP|TYPE) )?(?:vllm:|qwen_)")
FINISHED, WAITING = "qwen_streams_finished_total", "vllm:num_requests_waiting"


def totals(text: str) -> dict[str, float]:
    """``FINISHED`` and ``WAITING`` of Prometheus text, each summed over its labels. Raises ``ValueError``.

    Other lines are not parsed: the whole text takes the event loop 4 ms, in which no stream would move.
    """
    needed = "\n".join(line for line in text.splitlines() if line.startswith((FINISHED, WAITING)))
    samples = [sample for family in text_string_to_metric_families(needed) for sample in family.samples]
    return {name: sum(s.value for s in samples if s.name == name) for name in (FINISHED, WAITING)}


def wait_seconds(waiting: float, finished: float, over: float) -> int:
    """When the present queue will have been served, at the rate at which requests have ended of late."""
    if finished <= 0 or over <= 0:
        return NO_IDEA
    return min(LONGEST, max(1, math.ceil((waiting + 1) * over / finished)))


class TritonMetrics:
    """The last scrape of Triton's metrics. A Triton that does not answer leaves it empty."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._samples: deque[tuple[float, dict[str, float]]] = deque(maxlen=WINDOW)
        self._text, self._at = b"", 0.0
        self._http = httpx.AsyncClient(timeout=1.0, trust_env=False)

    async def run(self) -> None:
        while True:
            await self._scrape()
            await asyncio.sleep(EVERY)

    async def _scrape(self) -> None:
        self._at = time.monotonic()
        try:
            text = (await self._http.get(self._url)).raise_for_status().text
            sample = totals(text)
        except (httpx.HTTPError, ValueError) as error:
            log.debug("Triton's metrics cannot be read: %s", error)
            self._text = b""
            self._samples.clear()
            return
        self._samples.append((self._at, sample))
        self._text = "".join(line + "\n" for line in text.splitlines() if _PASSED_ON.match(line)).encode()

    async def text(self) -> bytes:
        """The engine's gauges and counters, not older than a second."""
        if time.monotonic() - self._at > 1.0:
            await self._scrape()
        return self._text

    def retry_after(self) -> int:
        """Seconds, from the engine's queue and the completions of the last half minute."""
        if len(self._samples) < 2:
            return NO_IDEA
        (then, before), (now, latest) = self._samples[0], self._samples[-1]
        return wait_seconds(latest[WAITING], latest[FINISHED] - before[FINISHED], now - then)

    async def close(self) -> None:
        await self._http.aclose()
