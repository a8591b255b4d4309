"""Setting .venv up: whichever Python `make` finds, the libraries and Triton's stub fit the one that .venv holds."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

import pytest

from contract.paths import ROOT
from serving.launch import bootstrap


def repository(folder: Path) -> Path:
    """A copy of what setting up needs, whose only pin is a package that no index has."""
    script = folder / "serving/launch/bootstrap.py"
    script.parent.mkdir(parents=True)
    for name in ("bootstrap.py", "pip.conf"):
        script.with_name(name).write_text((ROOT / "serving/launch" / name).read_text())
    (folder / "pyproject.toml").write_text('server = [\n    "no-such-package-anywhere==1.0",\n]\n')
    (folder / "locks").mkdir()
    for minor in range(10, 15):
        text = f"no-such-package-anywhere==1.0 --hash=sha256:{'0' * 64}\n"
        (folder / f"locks/server-3.{minor}.txt").write_text(text)
    return script


def set_up(script: Path, python: str = sys.executable, home: str = "/nonexistent") -> str:
    env = dict(os.environ, HOME=home)
    done = subprocess.run([python, str(script)], env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    return done.stdout + done.stderr


def test_the_python_of_an_existing_venv_sets_it_up(tmp_path: Path) -> None:
    script = repository(tmp_path)
    venv.create(tmp_path / ".venv", with_pip=True)
    line = 'print("setup runs in", sys.prefix)\n    check_platform()'
    script.write_text(script.read_text().replace("check_platform()\n    wanted", line + "\n    wanted"))
    printed = set_up(script)
    assert f"setup runs in {tmp_path / '.venv'}" in printed
    assert "pip failed (see above)" in printed


def test_a_venv_whose_python_is_gone_is_made_again(tmp_path: Path) -> None:
    script = repository(tmp_path)
    venv.create(tmp_path / ".venv", symlinks=True)
    python = tmp_path / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3.10")
    printed = set_up(script)
    assert "setup: making" in printed and "Traceback" not in printed
    assert "pip failed (see above)" in printed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_venv_of_another_users_python_is_one_line() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to others
        Path(folder).chmod(0o755)
        closed = Path(folder, "home")
        closed.mkdir(mode=0o700)
        script = repository(Path(folder, "checkout"))
        (script.parents[2] / ".venv/bin").mkdir(parents=True)
        (script.parents[2] / ".venv/bin/python").symlink_to(closed / "python")
        command = ["/usr/bin/python3", str(script)]
        done = subprocess.run(command, capture_output=True, text=True, user=65534, group=65534, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert ".venv/bin/python: Permission denied for user 65534: make a checkout of your own" in done.stderr


def test_a_venv_whose_making_was_interrupted_is_made_again(tmp_path: Path) -> None:
    script = repository(tmp_path)
    venv.create(tmp_path / ".venv", with_pip=False)
    printed = set_up(script)
    assert "setup: making" in printed and "No module named pip" not in printed


def test_every_pin_is_read_with_its_marker() -> None:
    pins = bootstrap.requirements(["dev", "loadtest"])
    assert len(pins) == len(set(pins)) and all("==" in pin for pin in pins)
    names = [pin.split("==")[0] for pin in pins if "python_version < '3.11'" not in pin]
    assert len(names) == len(set(names))


def test_a_venv_whose_python_does_not_fit_is_said_once(tmp_path: Path) -> None:
    script = repository(tmp_path)
    venv.create(tmp_path / ".venv", with_pip=True)
    higher = f"LOWEST, HIGHEST = (3, 98), (3, 99)  # this test's Python, {sys.version_info[1]}, is too old"
    script.write_text(script.read_text().replace("LOWEST, HIGHEST = (3, 10), (3, 12)", higher))
    printed = set_up(script)
    assert printed.count("setup:") == 1 and "which does not fit: remove it" in printed


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one pin for every Python and one for Python 3.10 only; its lock is right."""
    repository(tmp_path)
    pins = ['"Some_Package[extra]==1.0"', "\"old==2.0; python_version < '3.11'\""]
    (tmp_path / "pyproject.toml").write_text(f"server = [\n    {', '.join(pins)},\n]\n")
    for minor in (10, 11, 12):
        text = "some-package==1.0 \\\n    --hash=sha256:00\n" + ("old==2.0 --hash=sha256:00\n" if minor == 10 else "")
        (tmp_path / f"locks/server-3.{minor}.txt").write_text(text)
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    return tmp_path


def test_a_lock_with_every_pin_passes_the_check(small: Path) -> None:
    bootstrap.main(["--check"])


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        ("locks/server-3.12.txt", None, "locks/server-3.12.txt is missing: run `make lock`"),
        ("locks/server-3.10.txt", "some-package==1.0\n", "lacks old==2.0 for Python 3.10"),
        ("locks/server-3.11.txt", "some-package==1.0.1\n", "for Python 3.11: run `make lock`"),
        ("pyproject.toml", "server = [\n    \"a==1; sys_platform == 'win32'\",\n]\n", "cannot read the marker"),
    ],
)
def test_a_stale_lock_is_one_line(small: Path, file: str, text: str | None, line: str) -> None:
    (small / file).unlink()
    if text is not None:
        (small / file).write_text(text)
    with pytest.raises(SystemExit) as ended:
        bootstrap.main(["--check"])
    assert line in str(ended.value) and "\n" not in str(ended.value)


@pytest.fixture
def demo(tmp_path: Path) -> tuple[Path, Path, str]:
    """A repository whose only package is in a folder: its script, its lock and the package's hash."""
    script = repository(tmp_path)
    (tmp_path / "pyproject.toml").write_text('server = [\n    "demo==1.0",\n]\n')
    wheel = tmp_path / "wheels/demo-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("demo.py", "")
        archive.writestr("demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        archive.writestr("demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("demo-1.0.dist-info/RECORD", "")
    index = f"--no-index --find-links={wheel.parent}"
    lock = tmp_path / f"locks/server-3.{sys.version_info[1]}.txt"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    lock.write_text(f"{index}\ndemo==1.0 --hash=sha256:{digest}\n")
    return script, lock, digest


def test_a_file_with_another_hash_is_refused(demo: tuple[Path, Path, str]) -> None:
    script, lock, digest = demo
    right = lock.read_text()
    lock.write_text(right.replace(digest, "0" * 64))
    assert "pip failed (see above)" in (printed := set_up(script)) and "HASH" in printed.upper()
    lock.write_text(right)
    printed = set_up(script)
    assert "pip failed" not in printed, "only Triton's stub is missing here"
    assert "setup: 1 of 1 packages installed\n" in printed


def test_the_users_pip_settings_move_no_package_and_choose_no_version(
    demo: tuple[Path, Path, str], tmp_path: Path
) -> None:
    """`user = yes` and a constraint ended set-up, `target` put the packages beside .venv."""
    (tmp_path / "constraints.txt").write_text("demo==2.0\n")
    wrong = (
        f"user = yes\nconstraint = {tmp_path / 'constraints.txt'}\ntarget = {tmp_path / 'away'}\nno-binary = :all:\n"
    )
    (tmp_path / ".config/pip").mkdir(parents=True)
    (tmp_path / ".config/pip/pip.conf").write_text(f"[global]\n{wrong}dry-run = yes\n[install]\n{wrong}")
    printed = set_up(demo[0], home=str(tmp_path))
    assert "setup: 1 of 1 packages installed\n" in printed and not (tmp_path / "away").exists()


def test_only_what_is_missing_is_counted_and_sized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first `make loadtest` said about 400 MB and "19 of 101": the other 82 packages were there."""
    site = tmp_path / ".venv/lib/python3.11/site-packages"
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    files = [tmp_path / f"{lock}-3.11.txt" for lock in ("server", "loadtest")]
    files[0].write_text("triton-client==2.0 \\\n    --hash=sha256:00\nnumpy==2.2.6 --hash=sha256:00\n")
    files[1].write_text("locust==2.47.0 --hash=sha256:00\nnumpy==2.2.6 --hash=sha256:00\n")

    def told(*found: str) -> tuple[int, str]:
        for name in found:
            (site / f"{name}.dist-info").mkdir(parents=True, exist_ok=True)
        return len(bootstrap.missing(files)), bootstrap.size_of(files)

    assert told() == (3, "about 400 MB")
    assert told("triton_client-2.0", "numpy-2.2.5") == (2, "at most 400 MB"), "numpy of another version"
    assert told("numpy-2.2.6") == (1, "at most 4 MB")
    assert told("locust-2.47.0")[0] == 0
    files.append(tmp_path / "vllm-3.11.txt")
    files[-1].write_text("vllm==0.33.0 --hash=sha256:00\n")
    assert told() == (1, "several GB")


def test_every_lock_has_a_size() -> None:
    assert {path.name.rpartition("-")[0] for path in (ROOT / "locks").glob("*.txt")} == {*bootstrap.SIZES, "vllm"}


def test_progress_is_a_count_with_the_newest_name() -> None:
    printed = "Collecting numpy==2.2.6 (from -r locks/server-3.11.txt (line 9))\n  Downloading numpy.whl (16 MB)\n"
    assert bootstrap.progress("", 0, 3) == "setup: pip starts"
    assert bootstrap.progress(printed, 0, 3) == "setup: fetching 1 of 3 packages: numpy"
    printed += "Requirement already satisfied: grpcio==1.80.0 in ./.venv (from -r locks/server-3.11.txt (line 2))\n"
    assert bootstrap.progress(printed, 0, 3) == "setup: fetching 1 of 3 packages: numpy", "grpcio is here already"
    printed += "Installing collected packages: numpy, pytz\n"
    assert bootstrap.progress(printed, 1, 3) == "setup: 1 of 3 packages installed"


@pytest.mark.parametrize("awaited", ["setup: making", "setup: installing"])
def test_an_interrupt_is_one_line(tmp_path: Path, awaited: str) -> None:
    """As Ctrl-C in a terminal: pip and venv get the signal too."""
    script = repository(tmp_path)
    process = subprocess.Popen(
        [sys.executable, str(script)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout and process.stderr
    while not (line := process.stdout.readline()).startswith(awaited):
        assert line, process.stderr.read()
    os.killpg(process.pid, signal.SIGINT)
    assert process.stderr.read().strip() == "setup: interrupted; run the same command to continue"
    assert process.wait(60) == 130
