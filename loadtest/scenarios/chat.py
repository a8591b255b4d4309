"""chat: four turns over a shared system prompt, answers of some 120 tokens, a pause to read in a closed loop."""

from __future__ import annotations

from loadtest.lengths import Length
from loadtest.scenarios.base import Scenario, ScenarioSettings
from loadtest.scenarios.single import Drawn, question


def create(settings: ScenarioSettings) -> Scenario:
    return Drawn("chat", settings, question, Length("lognormal", 120, 0.5), turns=4, think_s=1.0).adjusted()
