"""When a client of a server that restarts should come back."""

from __future__ import annotations

import pytest

from serving.outage import Outage


@pytest.mark.parametrize(
    ("back_at", "seconds"),
    [(1000.2, 1), (1011.5, 12), (1300.0, 60), (0.0, 5), (999.0, 5)],
    ids=["soon", "later", "at most what SDKs wait", "unknown", "overdue"],
)
def test_the_time_to_come_back(back_at: float, seconds: int) -> None:
    assert Outage("restarting", back_at).retry_after(1000.0) == seconds


@pytest.mark.parametrize("outage", [Outage(), Outage("starting"), Outage("it died\nof 2 things", 1790000000.5)])
def test_written_and_read(outage: Outage) -> None:
    assert Outage.load(outage.dump()) == outage


def test_other_text_is_refused() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        Outage.load("restarting")
