"""Triton's metrics, read every two seconds: passed on with the gateway's own, and the ground of Retry-After."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections import deque

import httpx

log = logging.getLogger(__name__)

EVERY = 2.0  # seconds
WINDOW = 15  # samples over which completions are counted: half a minute
NO_IDEA, LONGEST = 5, 60  # seconds to wait when no rate is known; and at most
_PASSED_ON = re.compile(r"^(?:# (?:HELP|TYPE) )?(?:vllm:|qwen_)")
_SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


def totals(text: str) -> dict[str, float]:
    """Prometheus text as name -> sum over labels."""
    out: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        out[name] = out.get(name, 0.0) + float(value)
    return out


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
        except httpx.HTTPError as error:
            log.debug("Triton's metrics cannot be read: %s", error)
            self._text = b""
            self._samples.clear()
            return
        self._samples.append((self._at, totals(text)))
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
        name = "qwen_streams_finished_total"
        finished = latest.get(name, 0.0) - before.get(name, 0.0)
        return wait_seconds(latest.get("vllm:num_requests_waiting", 0.0), finished, now - then)

    async def close(self) -> None:
        await self._http.aclose()
