from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest

from serving.triton import shared_memory


@pytest.fixture
def segment() -> Iterator[Path]:
    with NamedTemporaryFile(dir="/dev/shm", prefix="qwen_test_") as file:
        file.truncate(4096)
        Path(file.name).chmod(0o644)
        yield Path(file.name)


def test_what_this_process_maps_is_closed_to_others_and_nothing_else(segment: Path) -> None:
    with segment.open("r+b") as file:
        shared_memory.close_to_others()
        assert segment.stat().st_mode & 0o777 == 0o644, "not mapped"
        with mmap.mmap(file.fileno(), 4096):
            shared_memory.close_to_others()
    assert segment.stat().st_mode & 0o777 == 0o600


def test_a_segment_that_went_is_no_fault(segment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        f"7f0 rw-s 00000000 00:18 7   /dev/shm/gone\n7f1 rw-s 00000000 00:18 8   {segment}\n7f2 rw-p 0 0:0 0\n"
    )
    monkeypatch.setattr(shared_memory, "MAPS", maps)
    shared_memory.close_to_others()
    assert segment.stat().st_mode & 0o777 == 0o600


def test_a_library_under_any_path_is_no_fault(segment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The Python in Triton's stub decodes as ASCII: with the checkout in a directory called "ä" nothing started."""
    maps = tmp_path / "maps"
    maps.write_bytes(b"7f0 r-xp 0 0:0 1   /\xe4/lib.so\n" + f"7f1 rw-s 00000000 00:18 8   {segment}\n".encode())
    monkeypatch.setattr(shared_memory, "MAPS", maps)
    shared_memory.close_to_others()
    assert segment.stat().st_mode & 0o777 == 0o600
