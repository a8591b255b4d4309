import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contract.paths import ROOT

HANDLER = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_DFL)\n"


def answer(folder: Path, *command: str) -> str:
    environment = {"PYTHONPATH": str(ROOT)}
    return subprocess.check_output([sys.executable, *command], cwd=folder, env=environment, text=True).strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/__init__.py").write_text("import contract.program\n" + HANDLER)
    (tmp_path / "own/__main__.py").touch()
    (tmp_path / "program.py").write_text("import contract.program\n" + HANDLER)
    (tmp_path / "user.py").write_text("import own\n")
    return tmp_path


@pytest.mark.parametrize("command", [("program.py",), ("-m", "program"), ("-m", "own")])
def test_a_program_that_loads_ends_at_ctrl_c_as_one_in_c_does(folder: Path, command: tuple[str, ...]) -> None:
    assert answer(folder, *command) == "True"


@pytest.mark.parametrize("command", [("user.py",), ("-m", "user"), ("-c", "import own")])
def test_a_program_that_imports_it_by_the_way_keeps_its_handler(folder: Path, command: tuple[str, ...]) -> None:
    assert answer(folder, *command) == "False"


@pytest.mark.parametrize("name", ["client", "serving", "build_engine", "loadtest", "deploy.cluster", "serving.gateway"])
def test_a_program_without_its_packages_says_so_in_a_line(name: str) -> None:
    command = [sys.executable, "-S", "-m", name, *(("run",) if name == "loadtest" else ())]  # -S: no site-packages
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(f"{name}: {sys.executable} has no package ")
    assert (
        f"`make {'setup-loadtest' if name == 'loadtest' else 'setup'}`, then .venv/bin/python -m {name}" in done.stderr
    )


@pytest.mark.parametrize("command", [("program.py",), ("-m", "program")])
def test_a_ctrl_c_that_a_program_does_not_catch_is_a_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    """After its own `finally`, as of the benchmarks, which stop their servers there."""
    (tmp_path / "program.py").write_text(
        "import contract.program\ntry:\n    raise KeyboardInterrupt\nfinally:\n    print('cleaned up')\n"
    )
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "cleaned up\n", f"{command[-1]}: interrupted\n")


def test_a_fault_of_a_program_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import contract.program\nimport client.no_such_module\n")
    command = [sys.executable, "-m", "program"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith(b"Traceback")


def test_nor_do_tests_lose_theirs() -> None:
    import contract.program

    assert signal.getsignal(signal.SIGINT) is not signal.SIG_DFL
