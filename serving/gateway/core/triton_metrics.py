"""Triton's metrics, scraped every two seconds: appended to the gateway's own, and the basis of Retry-After."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections import deque

import httpx
from prometheus_client.parser import text_string_to_metric_families

from serving.gateway.core.share.capacity import CapacityMeter

log = logging.getLogger(__name__)

EVERY = 2.0  # seconds
WINDOW = 15  # samples in the window over which finished requests are counted: half a minute
UNKNOWN_RATE, LONGEST = 5, 60  # seconds to wait when the rate is unknown, and at most
_MODEL = re.compile(r'model_name="[^"]*"')
_PASSED_ON = re.compile(r"^(?:# (?:HELP|TYPE) )?(?:vllm:|qwen_)")
FINISHED, WAITING = "qwen_streams_finished_total", "vllm:num_requests_waiting"
RUNNING, PLACES, SALTED = "vllm:num_requests_running", "qwen_max_streams", "qwen_honours_cache_salt"
_NEEDED = (FINISHED, WAITING, RUNNING, PLACES, SALTED)


def totals(text: str) -> dict[str, float]:
    """The needed metrics of Prometheus text, each summed over its labels. Raises ``ValueError``.

    Other lines are not parsed: the whole text would block the event loop, and with it every stream, for 4 ms.
    """
    needed = "\n".join(line for line in text.splitlines() if line.startswith(_NEEDED))
    samples = [sample for family in text_string_to_metric_families(needed) for sample in family.samples]
    return {name: sum(s.value for s in samples if s.name == name) for name in _NEEDED}


def wait_seconds(waiting: float, per_second: float) -> int:
    """Seconds until the current queue is served, at the recent rate of finished requests."""
    if per_second <= 0:
        return UNKNOWN_RATE
    return min(LONGEST, max(1, math.ceil((waiting + 1) / per_second)))


class TritonMetrics:
    """The latest scrape of Triton's metrics; empty while Triton does not answer."""

    def __init__(self, url: str, model: str) -> None:
        """``model``: the gateway's name for it, under which dashboards find both halves."""
        self._url = url
        self._label = f'model_name="{model}"'
        self._samples: deque[tuple[float, dict[str, float]]] = deque(maxlen=WINDOW)
        self._text, self._at = b"", 0.0
        self.capacity = CapacityMeter()
        self.honours_cache_salt = False  # as last seen: it must not lapse while Triton does not answer
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
        self.honours_cache_salt = bool(sample[SALTED])
        places, running, waiting = (int(sample[name]) for name in (PLACES, RUNNING, WAITING))
        self.capacity.observe(places, running, waiting, self.finished_per_second)
        passed = "".join(line + "\n" for line in text.splitlines() if _PASSED_ON.match(line))
        self._text = _MODEL.sub(self._label, passed).encode()

    async def text(self) -> bytes:
        """The engine's gauges and counters, at most a second old."""
        if time.monotonic() - self._at > 1.0:
            await self._scrape()
        return self._text

    async def gauges(self, *names: str) -> dict[str, float]:
        """The latest values of these gauges; one that Triton does not have is 0."""
        found = dict.fromkeys(names, 0.0)
        for line in (await self.text()).decode().splitlines():
            name, _, value = line.rpartition(" ")
            if (name := name.partition("{")[0]) in found:
                found[name] += float(value)
        return found

    @property
    def finished_per_second(self) -> float:
        """Sequences that ended, over the last half minute; 0 while unknown."""
        if len(self._samples) < 2:
            return 0.0
        (then, before), (now, latest) = self._samples[0], self._samples[-1]
        return (latest[FINISHED] - before[FINISHED]) / (now - then)

    def retry_after(self, waiting: int, places_per_second: float) -> int:
        """Seconds until the engine's queue and ``waiting`` more are served, at the rate of the last half minute, or at
        ``places_per_second`` where that is higher: an engine that had little to do ended little."""
        ahead = self._samples[-1][1][WAITING] if self._samples else 0.0
        return wait_seconds(ahead + waiting, max(self.finished_per_second, places_per_second))

    async def close(self) -> None:
        await self._http.aclose()
