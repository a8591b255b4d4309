"""How fast the engine reads prompts, learnt from first tokens and from whole answers. Pure."""

from __future__ import annotations

TELLING = 256  # prompt tokens; with fewer ahead, a first token's time says more about one step than about reading
SMOOTHING = 4096  # tokens after which an observation has lost most of its weight
TELLING_STEPS = 8  # tokens of a whole answer that say what a step takes
STEPS_SMOOTHING = 1000  # tokens of answers after which the same is true of the time of a step
TELLING_PART = 0.3  # of a whole answer's time; if its steps leave less for the prompt, their error is too large
WINDOW_SECONDS = 0.5  # of reading that may lie at the engine
FIRST_WINDOW = 16_384  # tokens, while nothing is known


class PrefillMeter:
    """Prompt tokens per second: the mean predicts waits, the best recent value sizes the window that keeps the engine
    busy."""

    def __init__(self) -> None:
        self.mean = 0.0
        self._best = 0.0
        self._step = 0.0  # seconds per token of an answer

    def observe(self, tokens: int, seconds: float) -> None:
        """``tokens`` were unread when a request was sent, its own included; its first token came after ``seconds``."""
        if tokens < TELLING or seconds <= 0:
            return
        rate = tokens / seconds
        weight = tokens / (tokens + SMOOTHING)
        self.mean = rate if not self.mean else self.mean + weight * (rate - self.mean)
        self._best = max(rate, self._best * 0.98)

    def observe_whole(self, tokens: int, seconds: float, made: int) -> None:
        """An answer of ``made`` tokens that came as one message, ``seconds`` after its request was sent.

        Its steps are taken off; while their length is unknown, a short answer to a long prompt counts as it is."""
        if not tokens or not made:
            return
        if tokens < TELLING:
            if made >= TELLING_STEPS:
                self.observe_steps(made, seconds)
        elif self._step or tokens >= TELLING * made:
            reading = seconds - made * self._step
            if reading >= TELLING_PART * seconds:
                self.observe(tokens, reading)

    def observe_steps(self, made: int, seconds: float) -> None:
        """``made`` tokens of one answer came one after another within ``seconds``."""
        if made <= 0 or seconds <= 0:
            return
        weight = made / (made + STEPS_SMOOTHING)
        self._step += (seconds / made - self._step) * (weight if self._step else 1.0)

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
