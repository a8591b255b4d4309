"""summarize: a long document in, a short answer out. Prefill decides; TTFT is the figure to watch."""

from __future__ import annotations

import random

from loadtest.lengths import Length
from loadtest.prompts import Corpus
from loadtest.scenarios.base import Scenario, ScenarioSettings
from loadtest.scenarios.single import Drawn

ORDER = {"en": "Summarise the text above in three sentences.", "zh": "请用三句话概括上面的文字。"}


def document(texts: Corpus, rng: random.Random, tokens: int | None, turn: int) -> str:
    order = ORDER["zh" if texts.chars_per_token < 3 else "en"]
    return texts.pad(rng, order, tokens or 1)


def create(settings: ScenarioSettings) -> Scenario:
    return Drawn(
        "summarize", settings, document, Length("normal", 80, 20), input_tokens=Length("lognormal", 1200, 0.4)
    ).adjusted()
