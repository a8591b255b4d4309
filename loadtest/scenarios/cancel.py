"""cancel: three users in ten leave mid-stream. The report compares that number with the streams the server freed."""

from __future__ import annotations

from loadtest.lengths import Length
from loadtest.scenarios.base import Scenario, ScenarioSettings
from loadtest.scenarios.single import drawn, question


def create(settings: ScenarioSettings) -> Scenario:
    return drawn("cancel", settings, question, Length("lognormal", 200, 0.4), cancel_share=0.3)
