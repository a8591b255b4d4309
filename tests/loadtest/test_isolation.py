"""The verdict of `make bench-isolation`: against the same engine without an attack."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from contract.paths import ROOT
from loadtest.bench import attacks, gateway_attacks
from loadtest.bench.isolation import CLOSES, DOCUMENT, OPENS, broken, document, growth
from loadtest.bench.target import Target
from serving.gateway.settings import GatewaySettings


def row(attack: str, gap: int, small: int, failures: int = 0, engine: str = "simulated") -> dict[str, Any]:
    return {"engine": engine, "attack": attack, "gap_ms": gap, "small_ms": small, "failures": failures}


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [((270, 530, 0), []), ((271, 30, 0), ["a"]), ((20, 531, 0), ["a"]), ((20, 30, 1), ["a"])],
)
def test_a_broken_promise_is_named(seen: tuple[int, int, int], verdict: list[str]) -> None:
    rows = [row("none", 20, 30), row("a", *seen), row("none", 900, 900, engine="cpu"), row("b", 900, 900, engine="cpu")]
    assert broken(rows) == [f"simulated/{name}" for name in verdict]


def test_growth_is_that_of_the_process_that_grew_most() -> None:
    assert growth({"a 1": 10.0, "b 2": 20.0}, {"a 1": 15.0, "b 2": 18.0, "new 3": 500.0}) == 5.0


def test_the_table_in_the_document_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{OPENS}old\n{CLOSES}\nafter\n")
    about = {"command": "make bench-isolation", "date": "2026-01-01", "load_average_before": 0.5}
    rows = [
        row(name, 20, 30) | {"away_ms": 3, "waited_ms": 4, "took_s": 1.0, "memory_mib": 2.0, "attacker": got}
        for name, got in (("none", "-"), ("a", "x|y"))
    ]
    for _ in range(2):
        document(rows, about, page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith(f"{CLOSES}\nafter\n") and "old" not in text
    assert text.count("| simulated | a | 20 | 30 | 3 | 4 | 1.0 | 2.0 | x\\|y |") == 1
    assert OPENS in DOCUMENT.read_text() and CLOSES in DOCUMENT.read_text()


def test_attacks_stay_within_the_gateways_bound_of_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger ones would be refused by their length alone."""
    sizes: dict[str, int] = {}

    def post(target: Target, path: str, body: str, count: int = 2) -> str:
        sizes[path] = max(sizes.get(path, 0), len(body))
        return "ok"

    monkeypatch.setattr(gateway_attacks, "posts", post)
    for attack in gateway_attacks.ALL:
        if gateway_attacks.held.__name__ not in attack.__code__.co_names:
            attack(Target(1, 1))
    assert set(sizes) == {"/v1/chat/completions", "/v1/completions", "/tokenize"}
    assert min(sizes.values()) > 2**20 and max(sizes.values()) <= GatewaySettings().max_body_bytes


def test_the_matrix_names_every_attack() -> None:
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs/isolation.md").read_text(encoding="utf-8")))
    assert set(attacks.ATTACKS) <= named


def test_held_connections_ask_for_what_the_gateway_has() -> None:
    assert (ROOT / f"serving/gateway{gateway_attacks.LARGE_FILE}").stat().st_size > 2**18
