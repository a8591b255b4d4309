"""What the accuracy gate measures, as pure functions of two models' most likely tokens at the same positions.

A ``Position`` is the k most likely tokens with their natural-log probabilities, best first. All runtimes give that, but
few give full distributions; so KL is taken over the reference's k tokens and "anything else" as one more outcome. By
the data-processing inequality that is a lower bound of the true KL: close to it when k tokens hold nearly all the mass,
as they do in a trained model, and far below it for the flat distributions of random weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Position = Sequence[tuple[int, float]]
TINY = 1e-9
CONFIDENT_NATS = 1.0  # the reference's first token leads the second by this much
RUN = 16  # the same token this many times in a row is a loop
LONGEST_CYCLE = 16  # tokens
MISJUDGED = 0.05  # chance that a model which loops no more than its reference fails
CYCLE_COVERS = 48  # tokens at the end of an answer that a cycle must fill


@dataclass(frozen=True, slots=True)
class Accuracy:
    positions: int
    greedy_agreement: float
    confident_agreement: float
    mean_kl: float | None  # None when a side gives no probabilities, or only the chosen token's
    perplexity_drift: float | None
    new_repetitions: int  # answers that loop where the reference's do not
    gone_repetitions: int  # and the other way round
    repetition_rise: float  # share of answers that loop: its rise, at the lower end of the interval


def compare(
    reference: Sequence[Position],
    candidate: Sequence[Position],
    targets: Sequence[int],
    answers: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> Accuracy:
    """``targets``: the token that followed at each position; ``answers``: free greedy answers, the reference's first.

    Raises ``ValueError`` when the lengths differ or nothing was compared."""
    if not reference or not len(reference) == len(candidate) == len(targets):
        raise ValueError(f"{len(reference)}, {len(candidate)} and {len(targets)} positions cannot be compared")
    same = [ours[0][0] == theirs[0][0] for theirs, ours in zip(reference, candidate, strict=True)]
    sure = [agreed for agreed, position in zip(same, reference, strict=True) if _lead(position) >= CONFIDENT_NATS]
    loops = [(repeats(theirs), repeats(ours)) for theirs, ours in answers]
    new, gone = loops.count((False, True)), loops.count((True, False))
    known = all(_comparable(position) for position in (*reference, *candidate))
    return Accuracy(
        positions=len(reference),
        greedy_agreement=sum(same) / len(same),
        confident_agreement=sum(sure) / len(sure) if sure else 1.0,
        mean_kl=_mean([kl(p, q) for p, q in zip(reference, candidate, strict=True)]) if known else None,
        perplexity_drift=_drift(reference, candidate, targets) if known else None,
        new_repetitions=new,
        gone_repetitions=gone,
        repetition_rise=rise(new, gone, len(answers)),
    )


def _comparable(position: Position) -> bool:
    """A single entry is a model's opinion of its own choice: KL and drift would look good whatever it is."""
    return len(position) > 1 and not math.isnan(position[0][1])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _lead(position: Position) -> float:
    return position[0][1] - position[1][1] if len(position) > 1 else 0.0


def kl(reference: Position, candidate: Position) -> float:
    """KL(reference ‖ candidate) in nats over the reference's tokens and the rest. A token that the candidate did not
    list gets the candidate's smallest listed probability: it has at most that, so this stays a lower bound."""
    q_of, smallest = dict(candidate), min(value for _, value in candidate)
    total, p_rest, q_rest = 0.0, 1.0, 1.0
    for token, log_p in reference:
        log_q = q_of.get(token, smallest)
        total += math.exp(log_p) * (log_p - log_q)
        p_rest, q_rest = p_rest - math.exp(log_p), q_rest - math.exp(log_q)
    p_rest, q_rest = max(p_rest, 0.0), max(q_rest, TINY)
    return max(0.0, total + (p_rest * math.log(p_rest / q_rest) if p_rest > TINY else 0.0))


def _drift(reference: Sequence[Position], candidate: Sequence[Position], targets: Sequence[int]) -> float:
    return math.exp(_loss(candidate, targets) - _loss(reference, targets)) - 1


def _loss(positions: Sequence[Position], targets: Sequence[int]) -> float:
    """Mean negative log-likelihood; a token that is not listed counts with the smallest listed probability."""
    found = [dict(p).get(t, min(v for _, v in p)) for p, t in zip(positions, targets, strict=True)]
    return -_mean(found)


def repeats(tokens: Sequence[int]) -> bool:
    """Is this answer a loop: one token ``RUN`` times in a row ("!!!!"), or its end one short phrase over and over?"""
    run = 1
    for before, token in itertools.pairwise(tokens):
        run = run + 1 if token == before else 1
        if run >= RUN:
            return True
    tail = list(tokens[-CYCLE_COVERS:])
    return len(tail) == CYCLE_COVERS and any(tail[period:] == tail[:-period] for period in range(2, LONGEST_CYCLE + 1))


def rise(new: int, gone: int, answers: int) -> float:
    """The increase of the share of answers that loop, at the lower end of a one-sided 95 % interval.

    A trained model loops now and then, and any rounding makes some loops appear and others disappear: only a surplus
    means anything. Of the ``new + gone`` answers that changed, half are new ones by chance; the interval is Clopper and
    Pearson's (Biometrika 26, 1934) of that share, so above 0 means what an exact sign test rejects at 5 %. Fewer than
    five changed answers never do."""
    changed = new + gone
    return (2 * _least_share(new, changed) - 1) * changed / answers if changed else 0.0


def _least_share(hits: int, trials: int) -> float:
    """The smallest share under which ``hits`` or more of ``trials`` still have a chance of ``MISJUDGED``."""
    low, high = 0.0, 1.0
    for _ in range(50):
        share = (low + high) / 2
        chance = sum(math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(hits, trials + 1))
        low, high = (low, share) if chance > MISJUDGED else (share, high)
    return low


def failures(accuracy: Accuracy, limits: Mapping[str, float]) -> list[str]:
    """The measures that missed their limits, as readable text."""
    found = []
    for name in ("greedy_agreement", "confident_agreement"):
        value = getattr(accuracy, name)
        if value < limits[name]:
            found.append(f"{name} {value:.4f} is below {limits[name]:g}")
    for name in ("mean_kl", "perplexity_drift", "repetition_rise"):
        value = getattr(accuracy, name)
        if value is None:
            found.append(f"{name} was not measured: the runtime gave no probabilities beside the chosen token's")
        elif value > limits[name]:
            found.append(f"{name} {value:.4g} is above {limits[name]:g}")
    return found
