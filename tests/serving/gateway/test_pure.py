"""The gateway's pure parts, and documents that must say what the code says."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from serving.gateway.api import openapi
from serving.gateway.core import auth, triton_metrics
from serving.gateway.schema import coverage
from serving.gateway.schema.errors import ApiError
from serving.gateway.settings import GatewaySettings, GatewaySettingsError


def test_retry_after_comes_from_the_queue() -> None:
    assert triton_metrics.wait_seconds(waiting=99, finished=50, over=10) == 20
    assert triton_metrics.wait_seconds(waiting=0, finished=500, over=10) == 1
    assert triton_metrics.wait_seconds(waiting=10_000, finished=1, over=10) == triton_metrics.LONGEST
    assert triton_metrics.wait_seconds(waiting=5, finished=0, over=10) == triton_metrics.UNKNOWN_RATE
    name = triton_metrics.FINISHED
    text = f'# TYPE {name} counter\n{name}{{x="1"}} 2\n{name}{{x="}} 2"}} 3\nother 0.5\n'
    assert triton_metrics.totals(text) == {name: 5.0, triton_metrics.WAITING: 0.0}


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


def test_key_files_are_checked(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("only-a-name\n")
    with pytest.raises(GatewaySettingsError, match=r"k:1: write `NAME KEY`"):
        auth.load(GatewaySettings(api_keys_file=str(tmp_path / "k")))
    (tmp_path / "k").write_text("# nobody\n")
    with pytest.raises(GatewaySettingsError, match="contains no key"):
        auth.load(GatewaySettings(api_keys_file=str(tmp_path / "k")))


def test_the_documents_tables_are_the_codes() -> None:
    text = coverage.DOCUMENT.read_text(encoding="utf-8")
    assert coverage.filled(text) == text, "run: make fields"
    assert text.count("| `messages` |") == 2, "a chat's, and the refusal of /v1/responses that says input"


def test_the_openapi_document_names_what_exists() -> None:
    document = openapi.document()
    references = [part.split('"')[0] for part in json.dumps(document).split('"$ref": "#/components/schemas/')[1:]]
    assert set(references) <= set(document["components"]["schemas"])
