"""What exists under a build's final name is complete, also when two builds have the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from build_engine.staging import replace, require_replaceable
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
