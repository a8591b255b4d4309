"""Steps of a build: each runs once, resumes where it may, and leaves nothing that only looks finished."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from build_engine import steps
from build_engine.steps import STAMP, Step
from contract.errors import BuildError


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def writes(output: Path, name: str = "a", then: str = "") -> Step:
    return Step(name, python(f"open({str(output / name)!r}, 'a').write('x'); {then}"), output)


def test_a_finished_step_is_not_repeated(tmp_path):
    step = writes(tmp_path / "one")
    steps.run([step])
    steps.run([step])
    assert (tmp_path / "one" / "a").read_text() == "x"
    assert json.loads(step.stamp.read_text())["command"] == list(step.argv)
    assert steps.seconds([step]) >= 0


def test_an_interrupted_step_leaves_nothing_that_looks_finished_and_starts_afresh(tmp_path):
    output = tmp_path / "one"
    with pytest.raises(BuildError, match="exit code 3"):
        steps.run([writes(output, then="raise SystemExit(3)"), writes(tmp_path / "two")])
    assert (output / "a").exists() and not (output / STAMP).exists() and not (tmp_path / "two").exists()
    steps.run([writes(output)])
    assert (output / "a").read_text() == "x" and (output / STAMP).exists()


def test_a_download_goes_on_where_it_stopped(tmp_path):
    output = tmp_path / "one"
    step = dataclasses.replace(writes(output, then="raise SystemExit(1)"), resumes=True)
    with pytest.raises(BuildError):
        steps.run([step])
    steps.run([dataclasses.replace(writes(output), resumes=True)])
    assert (output / "a").read_text() == "xx"


def test_a_step_that_writes_nothing_or_cannot_start_has_failed(tmp_path):
    with pytest.raises(BuildError, match="wrote nothing to"):
        steps.run([Step("nothing", python("pass"), tmp_path / "one")])
    with pytest.raises(BuildError, match="cannot be started"):
        steps.run([Step("missing", ("/no/such/tool",), tmp_path / "two")])
