"""A private directory is known as left over when its owner is gone, wherever it lies."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from unittest.mock import Mock

import pytest

from serving import session_dir


def test_a_directory_is_left_over_when_its_owner_is_gone(tmp_path: Path) -> None:
    """Also where a name has characters that mean something in a pattern."""
    parent = tmp_path / "a[1]*?"
    parent.mkdir()
    directory, lock = session_dir.create(parent, "of[x]-", "note")
    assert session_dir.is_owned(directory) and not list(session_dir.left_over(parent, "of[x]-"))
    lock.close()
    assert list(session_dir.left_over(parent, "of[x]-")) == [(directory, "note")]
    assert not list(session_dir.left_over(parent, "other-"))


def test_where_the_file_system_has_no_locks_nothing_is_left_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lustre mounted without ``flock``: work goes on, and nobody removes what another may still use."""
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOSYS, "Function not implemented")))
    directory, lock = session_dir.create(tmp_path, "of-")
    lock.close()
    assert directory.is_dir() and not list(session_dir.left_over(tmp_path, "of-"))
