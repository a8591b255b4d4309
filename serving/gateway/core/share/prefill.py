"""How fast the engine reads prompts, learnt from first tokens. Pure."""

from __future__ import annotations

TELLING = 256  # prompt tokens; with fewer ahead, a first token's time says more about one step than about reading
SMOOTHING = 4096  # tokens after which an observation has lost most of its weight
WINDOW_SECONDS = 0.5  # of reading that may lie at the engine
FIRST_WINDOW = 16_384  # tokens, while nothing is known


class PrefillMeter:
    """Tokens per second: the mean predicts waits, the best of late keeps the engine busy."""

    def __init__(self) -> None:
        self.mean = 0.0
        self._best = 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        """``tokens`` were unread when a request was sent, its own included; its first token came after ``seconds``."""
        if tokens < TELLING or seconds <= 0:
            return
        rate = tokens / seconds
        weight = tokens / (tokens + SMOOTHING)
        self.mean = rate if not self.mean else self.mean + weight * (rate - self.mean)
        self._best = max(rate, self._best * 0.98)

    @property
    def window(self) -> int:
        """Unread prompt tokens with which the engine never waits for the gateway."""
        return max(1024, int(self._best * WINDOW_SECONDS)) if self._best else FIRST_WINDOW

    @property
    def long(self) -> int:
        """Prompts with more tokens wait for others of their kind: short ones go past them."""
        return self.window // 4

    def seconds(self, tokens: int) -> float:
        """Predicted time to read ``tokens``; 0 while nothing is known."""
        return tokens / self.mean if self.mean else 0.0
