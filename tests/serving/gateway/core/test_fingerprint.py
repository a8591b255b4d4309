"""A fingerprint changes with the engine and with nothing else."""

from __future__ import annotations

from pathlib import Path

from serving.gateway.core.fingerprint import fingerprint


def test_it_is_the_engines(tmp_path: Path) -> None:
    nothing = fingerprint(None)
    assert nothing == fingerprint(tmp_path), "no engine.json yet"
    described = tmp_path / "engine.json"
    described.write_text("{}")
    first = fingerprint(tmp_path)
    described.write_text('{"precision": "int8"}')
    assert len({nothing, first, fingerprint(tmp_path)}) == 3
    assert fingerprint(tmp_path).startswith("fp_") and fingerprint(tmp_path) == fingerprint(tmp_path)
