"""PIP_CONFIG_FILE, which outweighs every other file of pip's settings."""

from __future__ import annotations

import configparser
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from contract.paths import ROOT
from serving.launch.pip_config import OURS, effective

THEIRS = """[global]
index-url = https://me:secret@mirror.example/simple
trusted-host = mirror.example
    other.example
require-virtualenv = yes
USER = yes
--target = /elsewhere
no_binary = :all:
[install]
constraint = /nowhere
prefix = /elsewhere
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "their own.conf"
    path.write_text(THEIRS)
    return path


def settings(path: str, folder: Path) -> dict[str, str]:
    """As pip itself reads them."""
    env = {"HOME": str(folder), "XDG_CONFIG_DIRS": str(folder), "PIP_CONFIG_FILE": path}
    command = [sys.executable, "-m", "pip", "config", "list"]
    printed = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    return {name: value.strip("'") for name, _, value in (line.partition("=") for line in printed.splitlines())}


def test_a_mirror_is_honoured_and_no_package_moved(theirs: Path, tmp_path: Path) -> None:
    path = effective(str(theirs))
    found = settings(path, tmp_path)
    assert found["global.index-url"] == "https://me:secret@mirror.example/simple"
    assert (
        found["global.trusted-host"] == "\\nmirror.example\\nother.example"
        or "other.example" in found["global.trusted-host"]
    )
    ours = configparser.RawConfigParser()
    ours.read(OURS)
    assert {
        f"{section}.{name}": value for section in ours.sections() for name, value in ours[section].items()
    }.items() <= (found.items())
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600, "an index may have a password"
    assert effective(path) == path, "make calls make"


@pytest.mark.parametrize("text", [None, "no section\n", "[global]\nindex-url = x\n[global]\n"])
def test_a_file_that_pip_cannot_read_stays_for_pip_to_name(theirs: Path, text: str | None) -> None:
    theirs.unlink() if text is None else theirs.write_text(text)
    assert effective(str(theirs)) == str(theirs) and effective(os.devnull) == os.devnull


def test_make_gives_pip_that_file(theirs: Path) -> None:
    given = os.environ | {"PIP_CONFIG_FILE": str(theirs)}
    command = ["make", "-s", "-C", str(ROOT), "probe", "PYTHON=true", "PY=env #"]
    printed = subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout
    result = ROOT / ".venv-pip.conf"
    try:
        assert f"PIP_CONFIG_FILE={result}\n" in printed and "mirror.example" in result.read_text()
    finally:
        result.unlink(missing_ok=True)
