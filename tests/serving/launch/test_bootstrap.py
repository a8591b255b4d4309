"""Setting .venv up: whichever Python `make` finds, the libraries and Triton's stub fit the one that .venv holds."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from contract.paths import ROOT
from serving.launch import bootstrap


def repository(folder: Path) -> Path:
    """A copy of what setting up needs, whose only pin is a package that no index has."""
    script = folder / "serving/launch/bootstrap.py"
    script.parent.mkdir(parents=True)
    script.write_text((ROOT / "serving/launch/bootstrap.py").read_text())
    (folder / "pyproject.toml").write_text('server = [\n    "./no-such-package",\n]\n')
    return script


def set_up(script: Path, python: str = sys.executable) -> str:
    done = subprocess.run([python, str(script)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    return done.stdout + done.stderr


def test_the_python_of_an_existing_venv_sets_it_up(tmp_path: Path) -> None:
    script = repository(tmp_path)
    venv.create(tmp_path / ".venv", with_pip=True)
    line = 'print("setup runs in", sys.prefix)\n    check_platform()'
    script.write_text(script.read_text().replace("check_platform()\n    wanted", line + "\n    wanted"))
    printed = set_up(script)
    assert f"setup runs in {tmp_path / '.venv'}" in printed
    assert "pip failed (see above)" in printed


def test_a_venv_whose_python_is_gone_is_made_again(tmp_path: Path) -> None:
    script = repository(tmp_path)
    venv.create(tmp_path / ".venv", symlinks=True)
    python = tmp_path / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3.10")
    printed = set_up(script)
    assert "setup: making" in printed and "Traceback" not in printed
    assert "pip failed (see above)" in printed


def test_a_venv_whose_making_was_interrupted_is_made_again(tmp_path: Path) -> None:
    script = repository(tmp_path)
    venv.create(tmp_path / ".venv", with_pip=False)
    printed = set_up(script)
    assert "setup: making" in printed and "No module named pip" not in printed


def test_every_pin_is_read_with_its_marker() -> None:
    pins = bootstrap.requirements(["dev", "loadtest"])
    assert len(pins) == len(set(pins)) and all("==" in pin for pin in pins)
    names = [pin.split("==")[0] for pin in pins if "python_version < '3.11'" not in pin]
    assert len(names) == len(set(names))


def test_a_venv_whose_python_does_not_fit_is_said_once(tmp_path: Path) -> None:
    script = repository(tmp_path)
    venv.create(tmp_path / ".venv", with_pip=True)
    higher = f"LOWEST, HIGHEST = (3, 98), (3, 99)  # this test's Python, {sys.version_info[1]}, is too old"
    script.write_text(script.read_text().replace("LOWEST, HIGHEST = (3, 10), (3, 12)", higher))
    printed = set_up(script)
    assert printed.count("setup:") == 1 and "which does not fit: remove it" in printed
