"""The report in Chinese: every phrase that the code gives to be translated has a translation, and the page shows it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from client.language import language
from loadtest.report.sentences import sentences
from loadtest.report.words import CHINESE, ENGLISH, words

ROOT = Path(__file__).parents[3] / "loadtest"
SAME = {"%", "ms", "e2e", "p50", "p75", "p90", "p95", "p99", "p99.9", "tokens/s"}  # read alike in both languages


def phrases(path: Path) -> set[str]:
    """Literals given to ``say``, and the titles and axes of charts."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("say", "Chart"):
            given = node.args[: 3 if node.func.id == "Chart" else 1]
            found |= {a.value for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


def test_every_phrase_has_a_translation() -> None:
    used = set().union(*(phrases(p) for p in [*ROOT.glob("report/*.py"), ROOT / "compare.py", ROOT / "sweep.py"]))
    assert len(used) > 30
    assert sorted(used - SAME - set(CHINESE)) == []


def test_unknown_phrases_stay_english() -> None:
    assert words("zh")("Latency, ms") == "延迟（毫秒）" and words("zh")("worker 0") == "worker 0"
    assert ENGLISH("Latency, ms") == "Latency, ms"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LC_ALL": "en_US.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LC_ALL": "", "LC_MESSAGES": "zh_TW", "LANG": "C"}, "zh"),
        ({}, "en"),
    ],
)
def test_the_locale_decides(environment: dict[str, str], expected: str) -> None:
    assert language(environment) == expected


def test_limits_and_the_lead_are_translated() -> None:
    told = sentences("zh")
    assert told("errors ≤ 0.0%") == "错误 ≤ 0.0%" and told("chat over gRPC and SSE") == "chat，经由 gRPC 与 SSE"
