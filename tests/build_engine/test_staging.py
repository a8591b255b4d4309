"""What exists under a build's final name is complete, also when two builds have the same."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from build_engine.staging import replace, require_replaceable, sizes, staged, writing
from contract.errors import BuildError


def test_of_two_builds_of_one_directory_the_later_stays(tmp_path, monkeypatch):
    source, target, rename = tmp_path / "mine", tmp_path / "engine", Path.rename
    source.mkdir()
    (source / "engine.json").write_text("mine")

    def beside_another_build(self: Path, to: Path) -> Path:
        if self == source and not target.exists():  # it takes the name just before we do
            target.mkdir()
            (target / "engine.json").write_text("another's")
            monkeypatch.undo()
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", beside_another_build)
    replace(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]
    assert (target / "engine.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("files", "may"),
    [
        ({}, True),
        ({"engine.json": {}, "config.json": {}, "model.safetensors": {}}, True),
        ({"config.json": {"synthetic": True}, "model.safetensors": {}}, True),
        ({"tokenizer.json": {}, "tokenizer_config.json": {}}, True),  # the cached tokenizer
        ({"config.json": {"model_type": "qwen2"}, "tokenizer.json": {}, "model.safetensors": {}}, False),
        ({"config.json": []}, False),
        ({"tokenizer.json": {}, "model.safetensors": {}}, False),
        ({"notes.txt": {}}, False),
    ],
)
def test_only_what_was_written_here_is_replaced(tmp_path, files, may):
    """A checkpoint that someone fetched would be lost."""
    for name, data in files.items():
        (tmp_path / name).write_text(json.dumps(data))
    if may:
        require_replaceable(tmp_path)
        return
    with pytest.raises(BuildError, match="is not something this command wrote"):
        require_replaceable(tmp_path)


@pytest.mark.parametrize(
    ("free", "needed", "said"),
    [
        (150_400_000, 193_000_001, ("150 MB", "194 MB")),
        (1_049_999_999, 1_050_000_000, ("1.0 GB", "1.1 GB")),
        (400_000_000, 15_000_000_000, ("0.4 GB", "15.0 GB")),
    ],
)
def test_two_sizes_can_be_told_apart(free, needed, said):
    assert sizes(free, needed) == said


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("step", ["mkdir", "write", "rename"])
def test_an_output_that_cannot_be_written_is_named_with_the_remedy(tmp_path, monkeypatch, number, step):
    out, engines = tmp_path / "engines" / "e", tmp_path / "engines"

    def fail(path: Path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    def build() -> None:
        if step != "write":
            monkeypatch.setattr(Path, step, fail)
        with staged(out) as directory:
            if step == "write":
                fail(directory / "model.bin")

    with pytest.raises(BuildError) as error:
        build()
    monkeypatch.undo()
    where = tmp_path if step == "mkdir" else engines
    full = number in (errno.ENOSPC, errno.EDQUOT)
    why = (
        f"the disk of {where} is full: free some space"
        if full
        else f"{where} cannot be written ({os.strerror(number)}):"
    )
    assert str(error.value).startswith(why) and str(error.value).endswith("choose another directory with ENGINE=")
    assert not engines.exists() or not list(engines.iterdir()) or step == "rename"


def test_only_faults_of_the_output_are_blamed_on_it(tmp_path):
    full = pytest.raises(BuildError, match=f"the disk of {tmp_path} is full: free some space or go")
    with full, writing(tmp_path / "out", "go"):
        raise OSError(errno.ENOSPC, "No space left on device")  # a write says no name
    with pytest.raises(FileNotFoundError), staged(tmp_path / "out"):
        (tmp_path / "checkpoint").read_text()
    assert not list(tmp_path.iterdir())
