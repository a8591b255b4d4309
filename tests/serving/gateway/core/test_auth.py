"""Key files and token budgets."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from serving.gateway.core import auth
from serving.gateway.schema.errors import ApiError
from serving.gateway.settings import GatewaySettings, GatewaySettingsError


def test_a_budget_refills_with_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    key = auth.Key("k", auth._digest("x"), per_minute=60, at=0)
    here, there = (auth.Keys((key,), tmp_path / "budgets") for _ in range(2))
    here.charge(key, 90)
    with pytest.raises(ApiError) as caught:
        there.admit(key)
    assert caught.value.retry_after == 31
    now[0] += 31
    there.admit(key)


def test_a_reservation_stops_the_others_until_it_is_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 requests at once passed a budget that each of them would have used up."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    key = auth.Key("k", auth._digest("x"), per_minute=300, at=0)
    workers = [auth.Keys((key,), tmp_path / "budgets") for _ in range(2)]
    admitted = 0
    for at in range(200):
        try:
            workers[at % 2].admit(key, 200)
            admitted += 1
        except ApiError as error:
            wait = error.retry_after
    assert admitted == 2, "one within the budget, one that overdraws it"
    assert wait == 21, "100 tokens of debt at 5 per second, and strictly more than nothing left"
    workers[0].charge(key, 10 - 200)
    workers[1].admit(key, 200)  # the refund is there for both
    with pytest.raises(ApiError):
        workers[0].admit(key)
    now[0] += 23  # 110 tokens of debt
    workers[0].admit(key)


def test_key_files_are_checked(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("only-a-name\n")
    with pytest.raises(GatewaySettingsError, match=r"k:1: write `NAME KEY`"):
        auth.load(GatewaySettings(api_keys_file=str(tmp_path / "k")))
    (tmp_path / "k").write_text("# nobody\n")
    with pytest.raises(GatewaySettingsError, match="contains no key"):
        auth.load(GatewaySettings(api_keys_file=str(tmp_path / "k")))
