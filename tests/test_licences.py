"""The table of licences follows the locks and the packages' own metadata (`make licences`)."""

from __future__ import annotations

import importlib.util
from email.message import Message

import pytest

from contract.paths import ROOT

spec = importlib.util.spec_from_file_location("licences", ROOT / ".ci/licences.py")
licences = importlib.util.module_from_spec(spec)
spec.loader.exec_module(licences)
LINES = (ROOT / "docs/licences.md").read_text().splitlines()


def test_the_table_names_every_locked_package():
    assert [fault for fault in licences.faults(LINES) if "table" in fault or "in no lock" in fault] == []


@pytest.mark.parametrize(
    ("package", "line", "fault"),
    [
        ("numpy", None, "numpy is not in the table"),
        ("numpy", "| numpyy | BSD | server |", "numpyy is in no lock"),
        ("pytest", "| pytest | GPL-3.0 | dev |", "pytest is now MIT"),
        ("rich", "| rich | not stated | server |", "rich states no licence"),
        ("marked (npm)", "| marked (npm) | GPL | chat page |", "marked (npm) differs"),
    ],
)
def test_a_planted_difference_is_found(package, line, fault):
    changed = [line if old.startswith(f"| {package} |") else old for old in LINES]
    assert any(found.startswith(fault) for found in licences.faults([row for row in changed if row is not None]))


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ([("License-Expression", "MIT OR Apache-2.0"), ("License", "a long text")], "MIT OR Apache-2.0"),
        ([("Classifier", "License :: OSI Approved :: MIT License"), ("License", "x")], "MIT License"),
        ([("License", "BSD 3-Clause\n\nCopyright …")], "BSD 3-Clause"),
        ([], "not stated"),
    ],
)
def test_a_licence_is_read_from_what_a_package_says(headers, text):
    metadata = Message()
    for name, value in headers:
        metadata[name] = value
    assert licences.licence(metadata) == text
