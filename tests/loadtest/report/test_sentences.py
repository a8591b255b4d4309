"""Sentences of the report in Chinese: what the code composes has a translation, and figures keep their places."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from loadtest.report.sentences import CHINESE, sentences

PROSE = re.compile(r"planned`` is|^The cause|^From a run's|^The remark on")  # docstrings
ROOT = Path(__file__).parents[3] / "loadtest"


def templates(path: Path, function: str = "") -> set[str]:
    """The f-strings and sentences of ``function``, or of the whole file, with braces for what is put in."""
    tree: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    if function:
        tree = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function)
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - {
        id(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.add("".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            found.add(node.value)
    return {text for text in found if " " in text.strip() and not text.lstrip().startswith("``")}


def test_every_sentence_of_a_verdict_has_a_translation() -> None:
    for file, function in (
        *(("verdict.py", name) for name in ("judge", "_counts", "_generator", "_missed")),
        ("notes.py", "notes"),
        ("notes.py", "short_window"),
    ):
        used = templates(ROOT / file, function)
        assert used and sorted(text for text in used if text not in CHINESE and not PROSE.search(text)) == []


def test_figures_keep_their_places() -> None:
    sentence = sentences("zh")
    assert sentence("3 of 40 planned requests were sent: a worker was lost or too slow").startswith(
        "计划的 40 个请求只发送了 3 个"
    )
    assert sentence("ttft p99 is not measured (limit 200 ms)") == "ttft p99 为 没有测到（上限 200 毫秒）"
    assert sentence("run B was interrupted after 2.5 s") == "运行 B 在测量 2.5 秒后被中断"
    assert sentence("ttft p99 is 230.0 ms (limit 2 ms); p99 of 14 requests: the longest one") == (
        "ttft p99 为 230.0 毫秒（上限 2 毫秒）；14 个请求的 p99：即最长的一个"
    )
    assert sentence("something new") == "something new" and sentences("en")("10 ms") == "10 ms"
    for english, chinese in CHINESE.items():
        assert english.count("{}") == chinese.count("{}") + sum(f"{{{n}}}" in chinese for n in range(5)), english
