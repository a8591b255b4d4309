"""From a row of logits to a token, for one sequence. Pure numpy; every row has its own settings and random stream.

Order: allowed tokens, bias, penalties, forbidden tokens, grammar, then temperature, min_p, top_k, top_p (vLLM's order).
Log probabilities are those of the untouched logits. The vocabulary has 150,000 entries, so the top k are found by block
maxima: the k largest entries lie in the k blocks with the largest maxima, and only those blocks are sorted.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from contract.sampling import Sampling
from serving.runtimes.openvino.endings import Ending

Row = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
FORBIDDEN = np.float32(-np.inf)
BLOCK = 64  # entries per maximum
SUMMED = 128  # entries per sum
ROUNDING = 0.999  # sums of float32 weights are exact to much less
SORTED = 1024  # so few weights are sorted, not split first; of top_k up to this, seeds repeat the order of size
FAINT = 1e-7  # of a sum of float32 weights: below its rounding
LARGEST = 1e15  # of logits and of what they are divided by: infinity would make the best token's weight no number
FEW = 8  # an array of an eighth of the vocabulary is picked out and looked at in less time than all of it
EXPONENTS = 64  # powers of two told apart below the best weight; smaller ones share the last bin


class GrammarError(ValueError):
    """The guide cannot be followed any further; its request is at fault."""


class NothingLeft(ValueError):
    """The request's own settings forbid every token."""


class GrammarState(Protocol):
    """Where a sequence stands in its grammar. Both methods raise ``GrammarError`` when the grammar engine gives up.
    ``seconds``: processor time that its next mask is likely to take."""

    @property
    def seconds(self) -> float: ...

    def allowed(self) -> npt.NDArray[np.bool_] | None:
        """A mask over the vocabulary, true for the tokens that may come next; ``None``: all may."""

    def accept(self, token: int) -> None: ...

    @property
    def finished(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class SampledToken:
    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """The settings and state of one sequence. ``prompt`` counts for the repetition penalty only."""

    def __init__(
        self, sampling: Sampling, prompt: list[int], grammar: GrammarState | None = None, ending: Ending | None = None
    ) -> None:
        self.sampling = sampling
        self.grammar, self._ending = grammar, ending
        self.output: list[int] = []
        self.guide_seconds = 0.0  # processor time that the grammar took for the last token
        self._counts: Counter[int] = Counter()
        self._prompt = frozenset(prompt)
        self._seen = np.fromiter(self._prompt, np.int64)  # prompt and answer, each id once
        self._allowed = np.array(sampling.allowed_token_ids, np.int64)
        self._biased = np.array([i for i, _ in sampling.logit_bias], np.int64)
        self._biases = np.array([bias for _, bias in sampling.logit_bias], np.float32)
        self._bits = np.random.PCG64(sampling.seed) if sampling.temperature > 0 else None
        self._random = np.random.Generator(self._bits) if self._bits else None

    def resume(self, ids: list[int]) -> None:
        """Tokens that an earlier attempt chose. Raises ``ValueError`` when they do not follow the grammar."""
        self.output += ids
        self._counts.update(ids)
        self._seen = np.fromiter(self._prompt.union(ids), np.int64)
        if self.grammar:
            for at, token in enumerate(ids):
                if self._affordable(token, at) != token:
                    raise ValueError(f"token {token} leaves too few for the end of a guided answer")
                self.grammar.accept(token)
        if self._bits:  # one number per token: a seeded answer goes on as if nothing had happened
            self._bits.advance(len(ids))

    def choose(self, row: Row) -> SampledToken:
        """Pick the next token; ``row`` [vocab] is changed. Raises ``ValueError`` when no token can be chosen."""
        count = self.sampling.logprobs
        raw = log_probabilities(row, count) if count else None
        self.guide_seconds = 0.0
        self._constrain(row)
        token = self._pick(row)
        if self._ending:
            with self._timed():
                token = self._affordable(token, len(self.output))
        if raw is None:
            return SampledToken(token)
        total, top = raw
        return SampledToken(token, float(total[token]), top)

    def accept(self, token: int) -> None:
        self.output.append(token)
        if token not in self._counts and token not in self._prompt:
            self._seen = np.append(self._seen, token)
        self._counts[token] += 1
        if self.grammar:
            self.grammar.accept(token)

    def _affordable(self, token: int, made: int) -> int:
        """The token, or another where what is left of ``max_tokens`` would not complete the answer after it."""
        return self._ending.chosen(token, self.sampling.max_tokens - made - 1) if self._ending else token

    def _constrain(self, row: Row) -> None:
        s = self.sampling
        if len(self._allowed):
            kept = row[self._allowed]
            row.fill(FORBIDDEN)
            row[self._allowed] = kept
        if len(self._biased):
            row[self._biased] += self._biases
        if s.repetition_penalty != 1.0:
            penalize_repetition(row, self._seen, s.repetition_penalty)
        if self._counts and (s.presence_penalty or s.frequency_penalty):
            ids = np.fromiter(self._counts, np.int64)
            times = np.fromiter(self._counts.values(), np.float32)
            row[ids] -= np.float32(s.presence_penalty) + np.float32(s.frequency_penalty) * times
        if len(self.output) < s.min_tokens:
            row[list(s.stop_token_ids)] = FORBIDDEN
        for words in s.bad_words:
            before = len(words) - 1
            if not before or tuple(self.output[-before:]) == words[:-1]:
                row[words[-1]] = FORBIDDEN
        if self.grammar:
            with self._timed():
                allowed = self.grammar.allowed()
            if allowed is not None:
                row[~allowed[: len(row)]] = FORBIDDEN

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.thread_time()
        try:
            yield
        finally:
            self.guide_seconds += time.thread_time() - began

    def _pick(self, row: Row) -> int:
        best = int(row.argmax())
        if not np.isfinite(row[best]):
            if self._forbids and row[best] == FORBIDDEN:
                names = "allowed_token_ids, bad_words, min_tokens and the guide"
                raise NothingLeft(f"no token can follow: {names} together leave none")
            raise ValueError("no token can follow: the logits are not finite")
        return best if self._random is None else self._draw(row, row[best])

    @property
    def _forbids(self) -> bool:
        s = self.sampling
        return bool(self.grammar or s.bad_words or s.allowed_token_ids or len(self.output) < s.min_tokens)

    def _draw(self, row: Row, best: np.float32) -> int:
        assert self._random is not None
        ids, weights = candidates(row, best, self.sampling)
        chosen = draw(weights, self._random)
        return chosen if ids is None else int(ids[chosen])


def heat(values: Row, best: np.float32, temperature: float) -> Row:
    """exp((logit - best) / temperature): probabilities but for a common factor; the best one's is 1."""
    scaled = values - best
    scaled *= np.float32(min(1.0 / temperature, LARGEST))
    np.exp(scaled, out=scaled)
    return scaled


def candidates(row: Row, best: np.float32, s: Sampling) -> tuple[Ids | None, Row]:
    """Ids that survive min_p, top_k and top_p, in any order, with their weights; ``None``: all, in their order."""
    ids: Ids | None
    if s.top_k:
        ids = top(row, s.top_k) if s.top_k <= SORTED else largest(row, s.top_k)
    else:
        ids = audible(row, best, s.temperature)
    weights = heat(row if ids is None else row[ids], best, s.temperature)
    if s.min_p:
        ids, weights = _only(np.flatnonzero(weights >= s.min_p), ids, weights)
    if s.top_p < 1.0:
        ids, weights = _only(nucleus(weights, s.top_p), ids, weights)
    return ids, weights


def _only(kept: Ids, ids: Ids | None, weights: Row) -> tuple[Ids, Row]:
    return kept if ids is None else ids[kept], weights[kept]


def audible(row: Row, best: np.float32, temperature: float) -> Ids | None:
    """The ids without those whose weights add up to less than ``FAINT`` of the sum, where few are left; else ``None``.

    At a temperature of 0.2 these are all but some dozens, which spares the exponentials of a whole vocabulary."""
    loud = row >= best + np.float32(temperature * np.log(FAINT / len(row)))
    return np.flatnonzero(loud) if np.count_nonzero(loud) * FEW <= len(row) else None


def nucleus(weights: Row, share: float) -> Ids:
    """Indices of the fewest largest weights that make up ``share`` of the sum.

    Weights below ``(1 - share) / n`` of the sum are less than ``1 - share`` of it all together, so none of them is
    needed; of a peaked distribution a handful is left. Of those, only the bin in which the sum is reached is sorted,
    found by a histogram over the weights' binary exponents: sorting 150,000 weights takes ten times as long as all the
    rest of sampling."""
    if len(weights) <= SORTED:
        order: Ids = np.argsort(-weights, kind="stable")
        sums = np.cumsum(weights[order], dtype=np.float64)
        return order[: int(np.searchsorted(sums, share * sums[-1])) + 1]
    total = float(weights.sum(dtype=np.float64))
    goal = share * total
    large = np.flatnonzero(weights >= (1 - share) * total / len(weights) * ROUNDING)
    kept = weights[large]
    bins = EXPONENTS - np.maximum(np.frexp(kept)[1] + EXPONENTS - 1, 0)  # 0 holds the largest weights
    heights = np.cumsum(np.bincount(bins, kept, EXPONENTS + 1))
    last = min(int(np.searchsorted(heights, goal)), EXPONENTS)
    border = np.flatnonzero(bins == last)
    border = border[np.argsort(-kept[border], kind="stable")]
    before = np.cumsum(kept[border], dtype=np.float64) - kept[border]
    reached = border[before < goal - (heights[last - 1] if last else 0.0)]
    whole = np.concatenate([np.flatnonzero(bins < last), reached])
    chosen: Ids = large[whole if len(whole) else border[:1]]
    return chosen


def draw(weights: Row, random: np.random.Generator) -> int:
    """An index, each with the probability of its weight. A long row is summed by blocks: only one of them matters."""
    point = random.random()
    if len(weights) % SUMMED:
        return _reach(weights, point * float(weights.sum(dtype=np.float64)))[0]
    blocks = weights.reshape(-1, SUMMED)
    sums = blocks.sum(1, dtype=np.float64)
    block, before = _reach(sums, point * float(sums.sum()))
    return block * SUMMED + _reach(blocks[block], point * float(sums.sum()) - before)[0]


def _reach(weights: npt.NDArray[Any], goal: float) -> tuple[int, float]:
    """Where the running sum exceeds ``goal``, and the sum before that. Rounding never ends on a weight of zero."""
    heights = np.cumsum(weights, dtype=np.float64)
    at = int(np.searchsorted(heights, min(goal, np.nextafter(heights[-1], 0)), side="right"))
    return at, float(heights[at - 1]) if at else 0.0


def top(row: Row, count: int) -> Ids:
    """Indices of the ``count`` largest entries, largest first, the lower index first among equals."""
    size = len(row)
    count = min(count, size)
    found: Ids
    if size % BLOCK or count * 4 > size // BLOCK:
        found = np.arange(size)
    else:  # a block is a column: numpy takes the maxima of all at once
        blocks = np.argpartition(-row.reshape(BLOCK, -1).max(0), count - 1)[:count]
        found = (blocks[:, None] + np.arange(0, size, size // BLOCK)).reshape(-1)
    values = row[found]
    if count < len(found):
        kept = np.argpartition(-values, count - 1)[:count]
        found, values = found[kept], values[kept]
    ordered: Ids = found[np.lexsort((found, -values))]
    return ordered


def largest(row: Row, count: int) -> Ids:
    """The same indices as ``top``'s, in any order: of Qwen's 152,000 logits, 100,000 take 14 ms to sort."""
    first = max(len(row) - count, 0)
    border = np.partition(row, first)[first]
    above = np.flatnonzero(row > border)
    return np.concatenate([above, np.flatnonzero(row == border)[: count - len(above)]])


def log_probabilities(row: Row, count: int) -> tuple[Row, tuple[tuple[int, float], ...]]:
    """Natural log probabilities [vocab] and the best ``count - 1`` as (id, logprob)."""
    best = row.max()
    total: Row = row - (best + np.log(np.exp(row - best).sum()))
    ids = top(row, count - 1) if count > 1 else np.empty(0, np.int64)
    return total, tuple((int(i), float(total[i])) for i in ids)


def penalize_repetition(row: Row, ids: Ids, penalty: float) -> None:
    """CTRL's rule (https://arxiv.org/abs/1909.05858): positive logits are divided, negative ones multiplied."""
    values = row[ids]
    with np.errstate(over="ignore"):  # of a tiny penalty
        values = np.where(values > 0, values / np.float32(penalty), values * np.float32(penalty))
    row[ids] = np.minimum(values, LARGEST)
