"""prefix: one of eight system prompts of 1000 tokens before a short question. Shows what a prefix cache is worth."""

from __future__ import annotations

from loadtest.lengths import Length
from loadtest.scenarios.base import Scenario, ScenarioSettings
from loadtest.scenarios.single import Drawn, question


def create(settings: ScenarioSettings) -> Scenario:
    return Drawn("prefix", settings, question, Length("lognormal", 80, 0.4), prefix_tokens=1000, prefixes=8).adjusted()
