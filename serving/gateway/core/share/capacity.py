"""How many sequences the engine may be given at once, by its gauges. Pure."""

from __future__ import annotations

from dataclasses import dataclass

WAY_SECONDS = 0.05  # from a sequence's end in the engine to the beginning of the next one that was waiting here


@dataclass(frozen=True, slots=True)
class Capacity:
    """All in sequences. ``most``: what the engine decodes at once. ``reserve``: how many of these places only tenants
    with few sequences may take. ``margin``: how many may wait inside the engine, so that it fills a free place within
    the same step. ``on_the_way``: those that ended without our knowing yet, or have not arrived at the engine yet."""

    most: int
    on_the_way: int = 0

    @property
    def reserve(self) -> int:
        return max(1, self.most // 32) if self.most >= 8 else 0

    @property
    def margin(self) -> int:
        return max(2, self.most // 8)

    def limit(self, *, alone: bool) -> int:
        """For all tenants together. A tenant that is alone need not leave places empty for others."""
        return self.most + self.margin if alone else max(1, self.most - self.reserve + self.on_the_way)


class CapacityMeter:
    """Learns how many sequences the engine really decodes at once. With a full KV cache they are fewer than its places,
    and the rest would wait inside it, first come, first served, which the gateway's queue is there to avoid."""

    def __init__(self) -> None:
        self._learnt = 0
        self._on_the_way = 0
        # Running sequences at the last look if too many waited then. It takes two such looks in a row to tell a full
        # cache from a burst whose prompts are being read.
        self._ran = 0

    def observe(self, places: int, running: int, waiting: int, ended_per_second: float) -> None:
        """One look at the gauges. ``places`` 0: unknown."""
        self._on_the_way = round(ended_per_second * WAY_SECONDS)
        learnt = self._learnt or places
        if waiting > 2 * Capacity(learnt).margin:
            learnt = min(learnt, max(running, self._ran)) if self._ran else learnt
            self._ran = max(1, running)
        else:
            self._ran = 0
            learnt += max(1, learnt // 4)
        self._learnt = min(places, learnt)

    @property
    def capacity(self) -> Capacity | None:
        """``None`` while nothing is known: then nobody waits here."""
        return Capacity(self._learnt, self._on_the_way) if self._learnt else None
