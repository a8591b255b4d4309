"""Citations of other projects' source say which version, and the facts about TensorRT-LLM each have one."""

from __future__ import annotations

import re

import pytest

from contract.paths import ROOT
from tests.test_documents import TRACKED, anchors, text

FACTS = "docs/tensorrt_llm_facts.md"
CITING = [
    name
    for name in TRACKED
    if name.endswith((".py", ".md", ".toml", ".sh", "Makefile")) and not re.search("/vendor/|test_citations", name)
]
TAG = r"(?:v?\d[\w.]*|r\d[\w.]*|[a-z-]*v\d[\w.]*|b\d+|[0-9a-f]{40})"
OF_A_FILE = re.compile(rf"https://(?:github\.com|huggingface\.co)/[\w.-]+/[\w.-]+/(?:blob|tree)/{TAG}/[\w./-]+$")


def links(document: str) -> list[str]:
    return [link.rstrip(".,;:") for link in re.findall(r"https?://[^\s)>\]\"'`|]+", document)]


def source_cells() -> list[str]:
    """The last cell of each row of the tables that have facts and sources."""
    tables = re.findall(r"^\| fact \| source \|\n\|[-| ]+\|\n((?:\|.*\n)+)", text(FACTS), flags=re.MULTILINE)
    return [row.rstrip(" |\n").rpartition(" | ")[2] for table in tables for row in table.splitlines()]


def short_names() -> set[str]:
    table = text(FACTS).partition("| short name | file |")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| ([\w ]+) \|", table, flags=re.MULTILINE))


def test_a_link_to_a_file_of_a_repository_names_a_tag_or_commit():
    found = [(name, link) for name in CITING for link in links(text(name)) if re.search(r"/(?:blob|tree)/", link)]
    assert [where for where in found if not OF_A_FILE.match(where[1])] == [] and len(found) > 20


def test_every_link_of_the_facts_names_a_file_or_a_thread():
    """Not a repository or a folder: those do not say where a fact stands."""
    of_repositories = [link for link in links(text(FACTS)) if "github.com" in link]
    threads = re.compile(r"/(?:issues|pull)/\d+$")
    named = [link for link in of_repositories if threads.search(link) or re.search(r"/blob/.*\.\w+$", link)]
    assert set(of_repositories) - set(named) <= {"https://github.com/NVIDIA/TensorRT-LLM"} and len(named) > 25


@pytest.mark.parametrize("cell", source_cells())
def test_every_fact_has_a_source(cell):
    plain = re.sub(r"\[[^]]*\]\([^)]*\)|`[^`]*`|\([^)]*\)|^run:", "", cell)
    words = {word.strip() for word in plain.split(",")} - {""}
    assert cell and words <= short_names(), "a short name of the table of sources, or a link"


def test_the_facts_are_seen():
    assert len(source_cells()) > 35 and {"llm_args", "builder", "stub", "triton model"} <= short_names()


@pytest.mark.parametrize(
    ("link", "good"),
    [
        ("https://github.com/a/b/blob/v1.2.1/c/d.py", True),
        ("https://github.com/a/b/blob/376f7e1bd8ed543f75014309e3fd4b237e9b0e73/d.py", True),
        ("https://github.com/a/b/blob/r26.07/d.cc", True),
        ("https://github.com/a/b/blob/main/d.py", False),
        ("https://github.com/a/b/tree/master", False),
        ("https://github.com/a/b/blob/v1.2.1", False),
        ("https://huggingface.co/a/b/blob/main/config.json", False),
    ],
)
def test_what_counts_as_a_version(link, good):
    assert bool(OF_A_FILE.match(link)) is good


def test_a_section_that_is_cited_exists():
    titles = re.findall(r"^## (.+)$", text(FACTS), flags=re.MULTILINE)
    cited = []
    for name in CITING:
        cited += re.findall(r"tensorrt_llm_facts\.md,\s+\"([^\"]+)\"", re.sub(r"\n\s*#? ?", " ", text(name)))
    assert [title for title in cited if not any(each.startswith(title) for each in titles)] == [] and len(cited) >= 6
    assert anchors(text(FACTS)) and (ROOT / FACTS).is_file()
