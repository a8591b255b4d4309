"""The documents: links, paths, modules, targets and cited sources exist; the README stays short."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
DOCUMENTS = sorted(name for name in TRACKED if re.fullmatch(r"[A-Z]+(\.zh)?\.md|docs/\w+\.md", name))
TOP = "contract|client|serving|build_engine|loadtest|model_repository|tests|docs|examples"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def anchors(markdown: str) -> set[str]:
    """GitHub's anchors of the headings."""
    titles = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL), flags=re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    bad = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text(name)):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            bad.append(link)
    assert bad == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_nothing_stands_twice(name: str) -> None:
    """As after a merge that kept both sides: a heading, an entry of decisions.md, a point of a list."""
    found = re.findall(r"^(?:## .+|\*\*.{20,}|- .{20,})$", text(name), flags=re.MULTILINE)
    assert [line for line in found if found.count(line) > 1] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_named_files_modules_and_targets_exist(name: str) -> None:
    document = text(name)
    paths = set(re.findall(rf"`((?:{TOP})/[\w./-]*\w/?)`", document))
    targets = set(re.findall(r"(?:^|[`&;] ?)make ([a-z][a-z-]+)", document, flags=re.MULTILINE))
    modules = set(re.findall(rf"python3? -m ((?:{TOP})[\w.]*)", document))
    made = set(re.findall(r"^([a-z-]+):", text("Makefile"), flags=re.MULTILINE))
    as_file = [module for module in modules if not _is_module(module.replace(".", "/"))]
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []
    assert sorted(targets - made) == []
    assert as_file == []


def _is_module(path: str) -> bool:
    return (ROOT / f"{path}.py").is_file() or (ROOT / path / "__main__.py").is_file()


def test_the_readme_stays_short() -> None:
    assert len(text("README.md").split()) < 1200


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_document_installs_a_version_of_its_own(name: str) -> None:
    """Pins stand in pyproject.toml; a command in a document that repeats one goes stale."""
    assert re.findall(r"pip install [^`\n]*==", text(name)) == []


def commands(markdown: str) -> list[str]:
    """Lines of code blocks without their comments; a picture drawn in characters is none."""
    blocks = re.findall(r"^```\w+\n(.*?)^```", markdown, flags=re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s*(^|  )#.*| # .*", "", line).rstrip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def figures(markdown: str) -> list[tuple[str, set[str]]]:
    """Of each row of the last table: the command, and the numbers beside it."""
    rows = re.findall(r"^\|(.*)\| `(make [a-z-]+)` \|$", markdown, flags=re.MULTILINE)
    return [(command, set(re.findall(r"\d+(?:[,.]\d+)*", text))) for text, command in rows]


def test_the_chinese_readme_has_the_same_commands_and_figures() -> None:
    english, chinese = text("README.md"), text("README.zh.md")
    assert commands(chinese) == commands(english)
    assert figures(chinese) == figures(english) and len(figures(english)) == 3


def test_the_checks_above_look_at_something() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/decisions.md"} <= set(DOCUMENTS)
    assert len(re.findall(rf"`(?:{TOP})/[\w./-]+`", text("docs/architecture.md"))) > 20
    assert "three-figures" in anchors("# A\n## Three figures\n```\n# no title\n```") and "no-title" not in anchors(
        "```\n# no title\n```"
    )


def test_every_cited_page_of_docs_exists() -> None:
    """In code and configuration too: ``docs/page.md`` must be there, and no private notes are cited."""
    bad = []
    for name in TRACKED:
        if (
            not name.endswith((".py", ".md", ".toml", ".pbtxt", ".json", ".yml", ".yaml", "Makefile"))
            or "/vendor/" in name
        ):
            continue
        pages = re.findall(r"(?<!/)\bdocs/\w+\.md", text(name))
        notes = re.findall(r"\b(?:DESIGN|llmapi|trtllm|features)\.md\b|§ ?\d", text(name))
        bad += [f"{name}: {cited}" for cited in [*(p for p in pages if not (ROOT / p).is_file()), *notes]]
    assert [line for line in bad if not line.startswith("tests/test_documents.py")] == []
