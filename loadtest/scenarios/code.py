"""code: a short task in, a long answer out. Decoding decides; TPOT is the figure to watch."""

from __future__ import annotations

import random

from loadtest.lengths import Length
from loadtest.prompts import Corpus
from loadtest.scenarios.base import Scenario, ScenarioSettings
from loadtest.scenarios.single import Drawn


def task(texts: Corpus, rng: random.Random, tokens: int | None, turn: int) -> str:
    return texts.pad(rng, rng.choice(texts.code_tasks), tokens)


def create(settings: ScenarioSettings) -> Scenario:
    return Drawn("code", settings, task, Length("lognormal", 400, 0.4)).adjusted()
