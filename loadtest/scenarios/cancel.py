"""cancel: three users in ten leave mid-stream. The report compares that number with the streams the server freed."""

from __future__ import annotations

from loadtest.lengths import Length
from loadtest.scenarios.base import Scenario, ScenarioSettings
from loadtest.scenarios.single import Drawn, question


def create(settings: ScenarioSettings) -> Scenario:
    return Drawn("cancel", settings, question, Length("lognormal", 200, 0.4), cancel_share=0.3).adjusted()
