"""What exists under a build's final name is complete, also when two builds have the same."""

from __future__ import annotations

from pathlib import Path

from build_engine.staging import replace


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
