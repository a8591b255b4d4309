"""Build in a sibling directory, then rename: what exists under the final name is always complete."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
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

CHUNK = 1 << 22  # bytes per read while hashing


def cache_directory() -> Path:
    """``$XDG_CACHE_HOME/qwen-triton`` (default ``~/.cache/qwen-triton``): safe to delete, everything can be rebuilt."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwen-triton"


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """An empty directory beside ``out`` that takes its place when the block succeeds and is removed when it does not.

    Raises ``BuildError`` when ``out`` exists and is not an engine, checkpoint or cache directory that may be replaced.
    """
    out = Path(os.path.realpath(out))
    require_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.{os.getpid()}.partial"
    clear_leftovers(out)
    partial.mkdir()
    try:
        yield partial
        replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_replaceable(out: Path) -> None:
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not replaceable(out))):
        raise BuildError(f"{out} exists and is not something this command wrote: choose another --out or remove it")


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


def replace(source: Path, target: Path) -> None:
    """Rename a directory over another one, deleted only after the new one is in place. The later of two builds wins."""
    old = target.parent / f".{target.name}.{os.getpid()}.old"
    while True:
        with contextlib.suppress(FileNotFoundError):
            target.rename(old)
        try:
            source.rename(target)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        shutil.rmtree(old, ignore_errors=True)  # another build put its own there in between
    shutil.rmtree(old, ignore_errors=True)


def clear_leftovers(out: Path) -> None:
    """Remove what killed builds of ``out`` left behind, but not the directories of processes that are still running."""
    for path in [*out.parent.glob(f".{out.name}.*.partial"), *out.parent.glob(f".{out.name}.*.old")]:
        owner = path.name.rsplit(".", 2)[1]
        if not (owner.isdigit() and Path(f"/proc/{owner}").exists()):
            shutil.rmtree(path, ignore_errors=True)


def need_space(directory: Path, needed: int) -> None:
    """Raise ``BuildError`` unless the disk of ``directory`` has ``needed`` bytes left."""
    existing = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise BuildError(
            f"{existing} has {free / 1e9:.1f} GB free and about {needed / 1e9:.1f} GB are needed: free some space or "
            "choose another --out"
        )


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
