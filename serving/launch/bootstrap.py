"""Set up .venv. Runs on a bare Python: standard library only, and safe to run again.

usage: python3 serving/launch/bootstrap.py [EXTRA ...]      extras of pyproject.toml besides server, e.g. dev loadtest

Installs what locks/ lists for this Python and checks every file against its hash there (``make lock``).
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C waits for ``main``: no traceback

import contextlib
import ctypes.util
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
LOWEST, HIGHEST = (3, 10), (3, 12)
SIZES = {"server": 400, "loadtest": 4, "dev": 130, "otel": 1}  # MB of wheels in each lock; vLLM's are several GB
LAST_LINES = 20  # of pip's output, shown when it fails
FULL = os.strerror(errno.ENOSPC)
SMALLEST_FREE = 16 << 20  # bytes; with less a virtual environment cannot be made
GLIBC = (2, 35)  # the wheel of nvidia-pytriton is manylinux_2_35


def fail(line: str) -> NoReturn:
    sys.exit(f"setup: {line}")


def check_platform() -> None:
    version = sys.version_info[:2]
    if not LOWEST <= version <= HIGHEST:
        use_other_python(version)
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        fail(f"{platform.system()} {platform.machine()} is not supported: tritonserver's wheel is Linux x86_64 only")
    libc, number = platform.libc_ver()
    found = tuple(int(part) for part in number.split(".")[:2]) if number else (0, 0)
    if libc != "glibc" or found < GLIBC:
        fail(f"{libc or 'libc'} {number} is too old: tritonserver needs glibc 2.35 (Ubuntu 22.04, Debian 12 or newer)")


def use_other_python(version: tuple[int, ...]) -> None:
    """Restart under a Python that fits, if the machine has one."""
    if Path(sys.prefix).resolve() == VENV.resolve():
        fail(f"{VENV} holds Python {version[0]}.{version[1]}, which does not fit: remove it and repeat the command")
    for minor in range(HIGHEST[1], LOWEST[1] - 1, -1):
        if (other := shutil.which(f"python3.{minor}")) and runs(other):
            os.execv(other, [other, *sys.argv])
    fail(
        f"Python {version[0]}.{version[1]} at {sys.executable} does not fit; install Python 3.10, 3.11 or 3.12 "
        "(apt install python3.11 python3.11-venv) or say make PYTHON=/path/to/python3.11"
    )


def runs(python: str) -> bool:
    """A version manager has shims even for inactive versions; such a shim does not start."""
    command = [python, "-c", "import ensurepip"]
    return bool(shutil.which(python)) and subprocess.run(command, capture_output=True, check=False).returncode == 0


def libpython() -> Path:
    """The shared libpython that Triton's stub of this version loads; fetched from Debian without root if missing."""
    name = f"libpython3.{sys.version_info[1]}.so.1.0"
    folders = [sysconfig.get_config_var("LIBDIR") or "", f"/usr/lib/{platform.machine()}-linux-gnu", "/usr/lib64"]
    for folder in map(Path, [*folders, VENV / "libpython"]):
        if (folder / name).exists():
            return folder / name
    if ctypes.util.find_library(f"python3.{sys.version_info[1]}"):
        return Path(name)  # the loader finds it
    package, target = f"libpython3.{sys.version_info[1]}", VENV / "libpython"
    target.mkdir(parents=True, exist_ok=True)
    say(f"fetching Debian's {package} (Triton's Python stub needs {name})")
    commands = f"apt-get download {package} >/dev/null && dpkg -x {package}_*.deb . && cp $(find usr -name {name}) ."
    subprocess.run(["bash", "-c", commands], cwd=target, check=False, capture_output=True)
    if not (target / name).exists():
        fail(f"{name} is missing: run `apt install {package}`, then the same command again")
    return target / name


def say(line: str) -> None:
    print(f"setup: {line}", flush=True)


def pip(packages: int, *arguments: str) -> None:
    """``pip install`` with our own progress: pip reports only files and is silent half of the time."""
    command = [str(VENV / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    with tempfile.NamedTemporaryFile("w") as output:
        log = Path(output.name)
        with subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT) as process:
            show_progress(process, log, packages)
        if not process.returncode:
            return
        printed = log.read_text(encoding="utf-8", errors="replace")
    print(*printed.splitlines()[-LAST_LINES:], sep="\n", flush=True)
    if FULL in printed:
        fail(f"the disk of {VENV} or of {tempfile.gettempdir()}, where pip unpacks (TMPDIR), is full; make room")
    fail(f"pip failed (see above); is PyPI reachable? The command was: {' '.join(command)}")


def show_progress(process: subprocess.Popen[bytes], log: Path, packages: int) -> None:
    """Until ``process`` ends, show a counter in place on a terminal, or else a line every few seconds."""
    terminal, began, shown = sys.stdout.isatty(), installed(), ""
    pause = 0.2 if terminal else 5.0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(pause)
        line = progress(log.read_text(encoding="utf-8", errors="replace"), len(installed() - began), packages)
        if line != shown:
            print(f"\r{line:<{len(shown)}}" if terminal else line, end="" if terminal else "\n", flush=True)
            shown = line
        if process.returncode is not None:
            print("\n" if terminal else "", end="", flush=True)
            return


def progress(printed: str, unpacked: int, packages: int) -> str:
    """What pip is doing, judged by its output so far and by how many distributions .venv has gained."""
    if "\nInstalling collected packages" in printed:
        return f"setup: {unpacked} of {packages} packages installed"
    found = re.findall(r"^Collecting ([\w.-]+)", printed, re.MULTILINE)
    return f"setup: fetching {len(found)} of {packages} packages: {found[-1]}" if found else "setup: pip starts"


def installed() -> set[str]:
    return {path.name for path in VENV.glob("lib/python3.*/site-packages/*.dist-info")}


def has_pip() -> bool:
    python = VENV / "bin/python"
    command = [str(python), "-c", "import pip"]
    return python.exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0


def make_venv() -> None:
    if has_pip():  # an interrupted ``python -m venv`` leaves one without pip
        return
    say(f"making {VENV} with Python {platform.python_version()}")
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True, check=False)
    if made.returncode:
        free = shutil.disk_usage(ROOT).free
        shutil.rmtree(VENV, ignore_errors=True)
        if free < SMALLEST_FREE:  # ensurepip does not say why it ended
            fail(f"the disk of {VENV} is full: make room")
        if problem := next((line for line in made.stderr.splitlines() if "[Errno" in line), ""):
            fail(f"{VENV} cannot be made: {problem.partition('] ')[2]}")
        fail(f"`python -m venv` failed: run `apt install python3.{sys.version_info[1]}-venv`, then the same again")


def place_stub() -> None:
    """Put the stub for this Python beside the backend: the one already there is for another version."""
    triton = VENV / f"lib/python3.{sys.version_info[1]}/site-packages/pytriton/tritonserver"
    stub = triton / f"python_backend_stubs/3.{sys.version_info[1]}/triton_python_backend_stub"
    target = triton / "backends/python/triton_python_backend_stub"
    partial = target.with_suffix(".new")  # renamed into place: a running server keeps its open file
    shutil.copy2(stub, partial)
    partial.chmod(0o755)
    partial.replace(target)
    (triton / "bin/tritonserver").chmod(0o755)


def requirements(extras: list[str]) -> list[str]:
    """The pins of pyproject.toml. Python 3.10 has no TOML reader, so the plain lists are read with expressions."""
    lists: dict[str, list[str]] = {}
    name = ""
    for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines():
        if opening := re.match(r"([\w-]+) = \[", line):
            name = opening[1]
            lists[name] = []
        if name:
            lists[name] += re.findall(r'"([^"]+)"', line.partition("#")[0])
        if line.rstrip().endswith("]") and not line.lstrip().startswith('"'):
            name = ""
    if unknown := set(extras) - set(lists):
        fail(f"no such extra: {', '.join(sorted(unknown))}")
    return [pin for key in ("server", *extras) for pin in lists[key]]


def normal(name: str) -> str:
    """A distribution's normalized name (PEP 503), without its extras."""
    return re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower()


def fits(marker: str, minor: int) -> bool:
    """Does a pin with this marker apply to Python 3.``minor``? pyproject.toml uses only this kind of marker."""
    if not marker.strip():
        return True
    if not (found := re.fullmatch(r"\s*python_version (>=|<) '3\.(\d+)'\s*", marker)):
        fail(f"pyproject.toml: cannot read the marker {marker.strip()}: use python_version >= '3.N' or < '3.N'")
    return minor >= int(found[2]) if found[1] == ">=" else minor < int(found[2])


def locks(extras: list[str], minor: int) -> list[Path]:
    """The lock files of ``server`` and ``extras``. Exits when one lacks a pin of pyproject.toml."""
    files = [ROOT / "locks" / f"{extra}-3.{minor}.txt" for extra in dict.fromkeys(("server", *extras))]
    for path in files:
        if not path.is_file():
            fail(f"{path.relative_to(ROOT)} is missing: run `make lock`")
    locked = pins(files)
    for pin in requirements(extras):
        requirement, _, marker = pin.partition(";")
        name, _, version = requirement.strip().partition("==")
        if fits(marker, minor) and (normal(name), version) not in locked:
            fail(f"locks/ is stale, it lacks {name}=={version} for Python 3.{minor}: run `make lock` and commit it")
    return files


def pins(files: list[Path]) -> set[tuple[str, str]]:
    """Name and version of every package in the lock files."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return {(normal(name), version) for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}


def missing(files: list[Path]) -> set[tuple[str, str]]:
    """The pins of the lock files that .venv lacks in just that version."""
    names = (folder.removesuffix(".dist-info").rpartition("-") for folder in installed())
    return pins(files) - {(normal(name), version) for name, _, version in names}


def size_of(files: list[Path]) -> str:
    """What there is to fetch, in words. Of a lock that is partly there its whole is the upper bound."""
    lacking = {path.name.rpartition("-")[0]: (missing([path]), pins([path])) for path in files}
    if lacking.pop("vllm", (set(), set()))[0]:
        return "several GB"
    size = sum(SIZES[lock] for lock, (lacks, _) in lacking.items() if lacks)
    whole = all(lacks in (set(), everything) for lacks, everything in lacking.values())
    return f"{'about' if whole else 'at most'} {size if size < 10 else round(size, -1)} MB"


def use_venvs_python() -> None:
    """Libraries and Triton's stub must fit the Python of .venv, whichever Python started this."""
    python = str(VENV / "bin/python")
    there = Path(python).exists()  # raises where it leads into another user's home, as to pyenv's and uv's Pythons
    if there and Path(sys.prefix).resolve() != VENV.resolve() and (VENV / "pyvenv.cfg").is_file() and runs(python):
        os.execv(python, [python, *sys.argv])


def check(extras: list[str]) -> None:
    """``--check``: do the locks for every Python match pyproject.toml? Installs nothing."""
    for minor in range(LOWEST[1], HIGHEST[1] + 1):
        locks(extras, minor)


def main(extras: list[str]) -> None:
    if extras[:1] == ["--check"]:
        check(extras[1:])
        return
    use_venvs_python()
    check_platform()
    wanted = ",".join(sorted(set(extras)))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    files = locks(extras, sys.version_info[1])
    state = json.dumps([sys.version_info[:2], [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]])
    stamp = VENV / f".ready{'-' + wanted.replace(',', '-') if wanted else ''}"
    if stamp.exists() and stamp.read_text() == state:
        return
    make_venv()
    shutil.copy2(ROOT / "serving/launch/pip.conf", VENV)
    (VENV / "libpython.path").write_text(str(libpython().parent))
    lacking = len(missing(files))
    for_what = f" for [{wanted}]" if wanted else ""
    say(f"installing {lacking} packages{for_what}, {size_of(files)}" if lacking else f"checking the packages{for_what}")
    # The lock lists everything, so there is nothing to resolve; resolving would give vLLM another numpy than Triton's.
    listed = [f"--requirement={path}" for path in files]
    pip(lacking, "--progress-bar", "off", "--no-deps", "--require-hashes", *listed)
    place_stub()
    # examples/ and .venv/bin/python -m client from anywhere. The Python in Triton's stub reads this file as ASCII.
    own = VENV / f"lib/python3.{sys.version_info[1]}/site-packages/qwen_triton.pth"
    own.write_text("import os, sys; sys.path.append(os.path.dirname(sys.prefix))\n")
    stamp.write_text(state)
    say("ready")


if __name__ == "__main__":
    # A parent that started us in the background leaves SIGINT ignored; Ctrl-C would then stop only pip.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.umask(os.umask(0) | 0o022)  # other users must not be able to write what the server runs
    try:
        main(sys.argv[1:])
    except OSError as error:
        remedy = f" for user {os.geteuid()}: make a checkout of your own" if isinstance(error, PermissionError) else ""
        fail(f"{error.filename or VENV}: {error.strerror or error}{remedy}")
    except KeyboardInterrupt:  # pip and venv got it too, as part of the same foreground group
        print("\nsetup: interrupted; run the same command to continue", file=sys.stderr)
        sys.exit(130)
