"""Does the loaded engine do what each sampling field says? -> a table, and the answers for comparing two engines.

``python -m loadtest.bench.gpu.features ENGINE_DIR [--kv-gb 4] [--out FILE] [--against FILE]``

Drives the runtime itself, without Triton, so the same checks run on any release of vLLM and either of its model
runners (``VLLM_USE_V2_MODEL_RUNNER=0``). Each check is a property that holds whatever the weights are. The greedy
answers of every field are written to ``--out``; ``--against`` counts how many equal those of another run.
"""

from __future__ import annotations

import contract.program

import argparse
import collections
import itertools
import json
import logging
import math
import queue
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contract import engine_dir
from contract.errors import EngineDirectoryError
from contract.sampling import Guide, Sampling
from loadtest.arguments import Arguments, positive
from loadtest.errors import EXIT_USAGE
from serving import runtimes
from serving.detokenizer.text import TokenBytes
from serving.runtimes.base import EngineRequest, RuntimeOptions, SequenceDelta

GREEDY = Sampling(max_tokens=24, temperature=0.0, ignore_eos=True)
PROMPTS = 8
TAG = json.dumps({"format": {"type": "tag", "begin": "<b>", "end": "</b>",
                             "content": {"type": "json_schema", "json_schema": {"enum": [1, "x"]}}}})  # fmt: skip
DRAWS = 2048  # of one token, for the test of the distribution
WAIT_SECONDS = 300.0


@dataclass
class ProbeAnswer:
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tops: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    finish: str = ""


class ProbedEngine:
    """A runtime that answers lists of requests. Raises ``RuntimeError`` when it dies or stays silent."""

    def __init__(self, directory: Path, kv_bytes: int) -> None:
        self._deltas: queue.Queue[list[SequenceDelta] | str] = queue.Queue()
        self._ids = itertools.count(1)
        info = engine_dir.read(directory)
        options = RuntimeOptions(max_streams=256, kv_cache_bytes=kv_bytes)
        self.runtime = runtimes.load(info, options, self._deltas.put, self._deltas.put)
        self.end_ids = engine_dir.end_ids(directory)
        self.bytes = TokenBytes.load(directory / "tokenizer.json")
        random.seed(5)
        self.prompts = [[random.randrange(1000, 20_000) for _ in range(40)] for _ in range(PROMPTS)]

    def ask(self, *wanted: tuple[list[int], Sampling]) -> list[ProbeAnswer]:
        answers: dict[int, ProbeAnswer] = {}
        for prompt, sampling in wanted:
            number = next(self._ids)
            answers[number] = ProbeAnswer()
            self.runtime.submit(EngineRequest(number, prompt, sampling, seeded=sampling.seed > 0))
        while not all(answer.finish for answer in answers.values()):
            deltas = self._deltas.get(timeout=WAIT_SECONDS)
            if isinstance(deltas, str):
                raise RuntimeError(f"the engine died: {deltas}")
            for delta in deltas:
                answer = answers[delta.sequence_id]
                answer.ids += delta.token_ids
                answer.logprobs += delta.logprobs
                answer.tops += delta.top_logprobs
                answer.finish = delta.finish_reason or ""
        return list(answers.values())

    def each(self, sampling: Sampling) -> list[ProbeAnswer]:
        """One answer to every prompt, all in one batch."""
        return self.ask(*((prompt, sampling) for prompt in self.prompts))


def ids(answers: list[ProbeAnswer]) -> list[list[int]]:
    return [answer.ids for answer in answers]


def checks(engine: ProbedEngine) -> Iterator[tuple[str, bool, str]]:
    """Name, verdict and what was seen."""
    greedy = engine.each(replace(GREEDY, logprobs=6))
    alone = [engine.ask((prompt, GREEDY))[0].ids for prompt in engine.prompts]
    same = sum(a == b for a, b in zip(alone, ids(greedy), strict=True))
    yield "greedy alone = in company", True, f"{same} of {PROMPTS} equal (kernels differ by batch size)"
    for name, change in (("top_k 1", {"top_k": 1}), ("top_p ~0", {"top_p": 1e-6}), ("min_p 1", {"min_p": 1.0})):
        if name == "min_p 1" and "min_p" not in engine.runtime.capabilities:
            continue
        drawn = engine.each(replace(GREEDY, temperature=1.0, logprobs=2, **change))
        equal = sum(a == b for a, b in zip(ids(drawn), ids(greedy), strict=True))
        yield (
            f"{name} takes the likeliest token",
            _likeliest(drawn),
            f"{equal} of {PROMPTS} as greedy, others after a tie",
        )
    yield "greedy takes the likeliest token", _likeliest(greedy), ""
    mass = max(sum(math.exp(value) for _, value in top) for answer in greedy for top in answer.tops)
    fits = all(abs(a.logprobs[i] - a.tops[i][0][1]) < 1e-3 for a in greedy for i in range(len(a.ids)))
    yield "log probabilities", mass <= 1.0001 and fits, f"largest sum of 5: {mass:.4f}"
    if "logit_bias" in engine.runtime.capabilities:
        biased = engine.ask((engine.prompts[0], replace(GREEDY, logit_bias=((777, 100.0),))))[0]
        yield "logit_bias", set(biased.ids) == {777}, str(biased.ids[:4])
    if "allowed_token_ids" in engine.runtime.capabilities:
        allowed = tuple(range(0, 2000, 2))
        kept = engine.each(replace(GREEDY, temperature=1.0, allowed_token_ids=allowed))
        yield "allowed_token_ids", all(answer.ids and set(answer.ids) <= set(allowed) for answer in kept), ""
    probe = engine.ask((engine.prompts[0], replace(GREEDY, logprobs=3)))[0]  # alone, as those that follow
    first, second = probe.ids[0], probe.tops[0][1][0]
    banned = engine.ask((engine.prompts[0], replace(GREEDY, bad_words=((first,),))))[0]
    yield "bad_words", first not in banned.ids and banned.ids[0] == second, ""
    stop = replace(GREEDY, ignore_eos=False, stop_token_ids=(first,))
    at_once = engine.ask((engine.prompts[0], stop))[0]
    yield "stop_token_ids", at_once.finish == "stop" and at_once.ids == [], at_once.finish
    later = engine.ask((engine.prompts[0], replace(stop, min_tokens=6)))[0]
    yield "min_tokens", len(later.ids) >= 5 and first not in later.ids[:5], f"{len(later.ids)} tokens"
    yield from _penalties(engine)
    if "seed" in engine.runtime.capabilities:
        yield from _seeds(engine)
    yield _distribution(engine)
    yield from _guides(engine)


def _likeliest(answers: list[ProbeAnswer]) -> bool:
    """Several tokens may have the same BF16 logit; then any of them is right."""
    return all(chosen >= top[0][1] - 1e-3 for a in answers for chosen, top in zip(a.logprobs, a.tops, strict=True))


def _penalties(engine: ProbedEngine) -> Iterator[tuple[str, bool, str]]:
    """Log probabilities come before penalties, so each greedy choice can be made again from the 20 likeliest."""
    scored = replace(GREEDY, max_tokens=48, logprobs=21)
    penalized = {
        "presence_penalty": replace(scored, presence_penalty=2.0),
        "frequency_penalty": replace(scored, frequency_penalty=1.0),
        "repetition_penalty": replace(scored, repetition_penalty=1.5),
    }
    for name, sampling in penalized.items():
        answers = engine.each(sampling)
        right = total = 0
        for prompt, answer in zip(engine.prompts, answers, strict=True):
            for at, token in enumerate(answer.ids):
                total += 1
                right += _is_choice(name, token, dict(answer.tops[at]), prompt, answer.ids[:at])
        yield name, right >= 0.98 * total, f"{right} of {total} choices"


def _is_choice(name: str, token: int, top: dict[int, float], prompt: list[int], said: list[int]) -> bool:
    if token not in top:
        return False
    if name == "repetition_penalty":  # it scales logits, which are not given: seen tokens lose, unseen keep their order
        seen = {*prompt, *said}
        rivals = [value for other, value in top.items() if other not in seen and other != token]
        return all(top[token] >= value - 1e-3 for value in rivals)
    weight = 2.0 if name == "presence_penalty" else 1.0
    counts = collections.Counter(said)
    score = {t: v - weight * (min(1, counts[t]) if name == "presence_penalty" else counts[t]) for t, v in top.items()}
    return score[token] >= max(score.values()) - 0.07  # BF16 logits of this size are 0.0625 apart


def _seeds(engine: ProbedEngine) -> Iterator[tuple[str, bool, str]]:
    warm = replace(GREEDY, temperature=1.0, seed=7)
    for name, sampling in (
        ("a seed repeats", warm),
        ("a seed repeats, top_k and top_p", replace(warm, top_k=20, top_p=0.8)),
    ):
        # One at a time: kernels round differently by how many others share the step.
        answers = [[engine.ask((prompt, sampling))[0].ids for prompt in engine.prompts] for _ in range(2)]
        same = sum(a == b for a, b in zip(*answers, strict=True))
        yield name, same == PROMPTS, f"{same} of {PROMPTS}"
    prompt = engine.prompts[0]
    others = engine.ask(*((prompt, replace(warm, seed=seed)) for seed in range(8)))
    yield "seeds differ", len({tuple(answer.ids) for answer in others}) > 4, ""


def _distribution(engine: ProbedEngine) -> tuple[str, bool, str]:
    """First tokens drawn at temperature 1 among the top 5, against the model's own probabilities (chi-square)."""
    prompt = engine.prompts[1]
    top = engine.ask((prompt, replace(GREEDY, max_tokens=1, logprobs=6)))[0].tops[0][:5]
    total = sum(math.exp(value) for _, value in top)
    drawn = replace(GREEDY, max_tokens=1, temperature=1.0, top_k=5)
    answers = engine.ask(*((prompt, drawn) for _ in range(DRAWS)))
    seen = collections.Counter(answer.ids[0] for answer in answers)
    chi = sum((seen[t] - DRAWS * math.exp(v) / total) ** 2 / (DRAWS * math.exp(v) / total) for t, v in top)
    outside = sum(seen.values()) - sum(seen[token] for token, _ in top)
    return (
        "temperature and top_k follow the distribution",
        chi < 30 and outside == 0,
        f"chi-square {chi:.1f} (df 4), {outside} others",
    )


def _guides(engine: ProbedEngine) -> Iterator[tuple[str, bool, str]]:
    schema = json.dumps({"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]})
    cases: list[tuple[str, Guide, Callable[[str], Any]]] = [
        ("regex", Guide("regex", "[a-c]{3}-[0-9]{2}"), lambda text: re.fullmatch("[a-c]{3}-[0-9]{2}", text)),
        ("json_schema", Guide("json_schema", schema), lambda text: json.loads(text)["n"] in (1, 2)),
        ("ebnf_grammar", Guide("ebnf_grammar", 'root ::= "yes" | "no"'), lambda text: text in ("yes", "no")),
        ("structural_tag", Guide("structural_tag", TAG), lambda text: text in ("<b>1</b>", '<b>"x"</b>')),
    ]
    for name, guide, valid in cases:
        sampling = Sampling(max_tokens=64, temperature=1.0, guide=guide, stop_token_ids=engine.end_ids)
        answer = engine.ask((engine.prompts[0], sampling))[0]
        text = engine.bytes.join(answer.ids).decode(errors="replace")
        try:
            good = (
                bool(valid(text)) if answer.finish == "stop" else name == "json_schema"
            )  # white space is unbounded there
        except (ValueError, KeyError):
            good = False
        yield f"guide {name}", good, repr(text[:40])


def answers(engine: ProbedEngine) -> dict[str, list[list[int]]]:
    """Greedy answers under each field, for ``--against``."""
    kinds: dict[str, dict[str, Any]] = {
        "greedy": {}, "repetition_penalty": {"repetition_penalty": 1.3}, "presence_penalty": {"presence_penalty": 1.5},
        "frequency_penalty": {"frequency_penalty": 1.5}, "logit_bias": {"logit_bias": ((777, 5.0), (778, -5.0))},
    }  # fmt: skip
    able = engine.runtime.capabilities
    return {
        name: ids(engine.each(replace(GREEDY, **change)))
        for name, change in kinds.items()
        if name == "greedy" or name in able
    }


def main() -> int:
    parser = Arguments(
        prog="python -m loadtest.bench.gpu.features",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("engine", type=Path)
    parser.add_argument("--kv-gb", type=positive, default=4.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--against", type=Path)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")  # what the start takes
    try:
        engine = ProbedEngine(args.engine, int(args.kv_gb * 2**30))
    except EngineDirectoryError as error:
        parser.exit(EXIT_USAGE, f"{parser.prog}: {error}\n")
    failed = 0
    for name, good, seen in checks(engine):
        failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {name:48} {seen}", flush=True)
    made = answers(engine)
    if args.out:
        args.out.write_text(json.dumps(made) + "\n", encoding="utf-8")
    if args.against:
        other = json.loads(args.against.read_text(encoding="utf-8"))
        for name in made.keys() & other.keys():
            mine = made[name]
            print(f"same {name:48} {sum(a == b for a, b in zip(mine, other[name], strict=True))} of {len(mine)}")
    engine.runtime.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
