"""burst: sixteen requests at the same instant, silence, again. Shows the queue, fairness and the TTFT of the last."""

from __future__ import annotations

from loadtest.lengths import Length
from loadtest.scenarios.base import Scenario, ScenarioSettings
from loadtest.scenarios.single import Drawn, question

PERIOD_S = 5.0  # closed loop: all users start together this often


def create(settings: ScenarioSettings) -> Scenario:
    return Drawn(
        "burst", settings, question, Length("uniform", 60, 180), arrivals="burst:16", period_s=PERIOD_S
    ).adjusted()
