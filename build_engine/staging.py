"""Make it in a directory beside its place, then rename: what exists under the final name is always complete."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from contract.engine_dir import BuildInfo, FileInfo
from contract.errors import BuildError
from contract.paths import ROOT
from serving import session_dir

SCRATCH = ".scratch-"
ABANDONED_SECONDS = 24 * 3600.0  # a build writes something more often
CHUNK = 1 << 22  # bytes per read while hashing
FULL = (errno.ENOSPC, errno.EDQUOT)
MB, GB = 10**6, 10**9
ELSEWHERE = "choose another directory with ENGINE="
CACHE_ELSEWHERE = "choose another cache directory with XDG_CACHE_HOME="


def cache_directory() -> Path:
    """``$XDG_CACHE_HOME/qwen-triton`` (default ``~/.cache/qwen-triton``): safe to delete, everything can be rebuilt.

    In the checkout where there is no home: HOME is not set and the user is unknown to /etc/passwd, as in containers."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises there
    cache = home / ".cache" if home.is_absolute() else ROOT / "engines/.cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or cache) / "qwen-triton"


@contextmanager
def staged(out: Path, elsewhere: str = ELSEWHERE) -> Iterator[Path]:
    """An empty directory beside ``out`` that takes its place when the block succeeds and is removed when it does not.

    Raises ``BuildError`` when ``out`` exists and is not an engine, checkpoint or cache directory that may be replaced,
    and when it cannot be written. ``elsewhere`` says how to choose another one.
    """
    out = Path(os.path.realpath(out))
    with writing(out.parent, elsewhere):
        require_replaceable(out)
    with scratch(out.parent, elsewhere) as directory:
        partial = directory / "partial"
        partial.mkdir()
        yield partial
        with writing(out.parent, elsewhere):
            replace(partial, out, elsewhere)


@contextmanager
def scratch(parent: Path, elsewhere: str = ELSEWHERE) -> Iterator[Path]:
    """A directory in ``parent`` for what is to be renamed into it; removed at the end, or by a later one when this
    process is killed. Raises ``BuildError`` when it cannot be written."""
    with writing(parent, elsewhere):
        parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(parent)  # first: the disk may be full of them
        directory, lock = session_dir.create(parent, SCRATCH, socket.gethostname())
    with lock, writing(directory, elsewhere):
        try:
            clear_leftovers(parent, os.fstat(lock.fileno()).st_mtime)
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def clear_leftovers(parent: Path, now: float = 0.0) -> None:
    """Remove the scratch directories of killed processes, in ``parent`` and in the cache. ``now``, by the file system's
    own clock: also those of other hosts, whose locks a network file system may not show, when they are old."""
    host = socket.gethostname()
    for each in {parent, cache_directory()}:
        for directory, owner in session_dir.left_over(each, SCRATCH):
            if owner in (host, "") or now - _last_change(directory) > ABANDONED_SECONDS:  # "": it was being removed
                shutil.rmtree(directory, ignore_errors=True)
        for directory in each.glob(f".{SCRATCH}*"):  # it had no lock yet
            if now - _last_change(directory) > ABANDONED_SECONDS:
                shutil.rmtree(directory, ignore_errors=True)


def _last_change(directory: Path) -> float:
    """Of anything in it."""
    try:
        return max(path.stat().st_mtime for path in (directory, *directory.rglob("*")))
    except OSError:  # it is being removed
        return math.inf


@contextmanager
def writing(directory: Path, elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """Turn an ``OSError`` of what is written to ``directory`` into a ``BuildError`` that names it and the remedy.

    One that names a file elsewhere (a checkpoint that cannot be read) passes through.
    """
    try:
        yield
    except OSError as error:
        names = [
            Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))
        ]
        is_full = error.errno in FULL
        ours = any(name == directory or directory in name.parents or name in directory.parents for name in names)
        if not ours and (names or not is_full):  # a write to a full disk says no name
            raise
        existing = nearest(directory)
        what = f"the disk of {existing} is full: free some space"
        if not is_full:
            what = f"{existing} cannot be written ({error.strerror}): correct that"
        raise BuildError(f"{what} or {elsewhere}") from error


def nearest(directory: Path) -> Path:
    """``directory``, or the first of its parents that exists."""
    return next(path for path in (directory.absolute(), *directory.absolute().parents) if os.path.lexists(path))


def require_replaceable(out: Path) -> None:
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not replaceable(out))):
        raise BuildError(f"{out} exists and is not something this command wrote: remove it or {ELSEWHERE}")


def replaceable(directory: Path) -> bool:
    """An engine, a checkpoint of random weights, or the cached tokenizer: never a checkpoint that someone fetched."""
    if (directory / "engine.json").exists():
        return True
    try:
        return json.loads((directory / "config.json").read_text(encoding="utf-8")).get("synthetic") is True
    except FileNotFoundError:
        return (directory / "tokenizer.json").exists() and not any(directory.glob("*.safetensors"))
    except (OSError, ValueError, AttributeError):
        return False


def replace(source: Path, target: Path, elsewhere: str = ELSEWHERE) -> None:
    """Rename a directory over another one, deleted only after the new one is in place. The later of two builds wins."""
    with scratch(target.parent, elsewhere) as directory:
        for number in itertools.count():
            with contextlib.suppress(FileNotFoundError):
                target.rename(directory / f"old{number}")
            try:
                source.rename(target)
                return
            except OSError as error:  # another build put its own there in between
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise


def need_space(directory: Path, needed: int, elsewhere: str = ELSEWHERE) -> None:
    """Raise ``BuildError`` unless the disk of ``directory`` has ``needed`` bytes left."""
    existing = nearest(directory)
    free = shutil.disk_usage(existing).free
    if free < needed:
        clear_leftovers(existing)
        free = shutil.disk_usage(existing).free
    if free < needed:
        has, takes = sizes(free, needed)
        raise BuildError(f"{existing} has {has} free and about {takes} are needed: free some space or {elsewhere}")


def sizes(free: int, needed: int) -> tuple[str, str]:
    """Two sizes in bytes as a reader can tell them apart: the smaller one rounded down, the larger one up."""
    if needed < GB:
        return f"{free // MB} MB", f"{-(-needed // MB)} MB"
    tenth = GB // 10
    return f"{free // tenth / 10:.1f} GB", f"{-(-needed // tenth) / 10:.1f} GB"


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link takes no disk space and survives the removal of the source; across file systems, copy instead."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        need_space(target.parent, source.stat().st_size)
        shutil.copyfile(source, target)


def build_info(command: str, started: float) -> BuildInfo:
    """``started`` is ``time.monotonic()`` at the start of the build."""
    seconds = round(time.monotonic() - started, 1)
    when = datetime.fromtimestamp(time.time() - seconds, timezone.utc).isoformat(timespec="seconds")
    return BuildInfo([command] if command else [], when, seconds, socket.gethostname())


def file_infos(directory: Path) -> dict[str, FileInfo]:
    """sha256 and size in bytes of every file under ``directory``, by relative name."""
    files = sorted(p for p in directory.rglob("*") if p.is_file() and not p.name.startswith("engine.json"))
    return {str(p.relative_to(directory)): FileInfo(sha256=sha256(p), size=p.stat().st_size) for p in files}


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
