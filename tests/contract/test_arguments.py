"""A wrong option is one line."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from contract.arguments import EXIT_USAGE, Arguments
from contract.paths import ROOT


@pytest.mark.parametrize("argv", [["--number", "x"], ["--nothing"], ["sub", "--word", "c"]])
def test_a_mistake_is_one_line_that_names_the_option(argv, capsys):
    parser = Arguments(prog="program")
    parser.add_argument("--number", type=int)
    sub = parser.add_subparsers().add_parser("sub")
    sub.add_argument("--word", choices=("a", "b"))
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(argv)
    error = capsys.readouterr().err
    assert ended.value.code == EXIT_USAGE and error.count("\n") == 1 and error.startswith("program")
    assert "--help lists the options" in error


@pytest.mark.parametrize(("kind", "said"), [(int, "'x' is not a whole number"), (float, "'x' is not a number")])
def test_what_is_no_number_is_said_without_pythons_types(kind, said, capsys):
    parser = Arguments(prog="program")
    parser.add_argument("--many", type=kind)
    with pytest.raises(SystemExit):
        parser.parse_args(["--many", "x"])
    assert capsys.readouterr().err == f"program: --many: {said}; --help lists the options\n"


@pytest.mark.parametrize("argv", [["--many", "-5s"], ["--many"]])
def test_a_value_that_looks_like_an_option_is_not_said_to_be_missing(argv, capsys):
    parser = Arguments(prog="program")
    parser.add_argument("--many")
    with pytest.raises(SystemExit):
        parser.parse_args(argv)
    assert (
        "program: --many: it needs a value, and one that begins with - would be an option;" in capsys.readouterr().err
    )


@pytest.mark.parametrize(("raised", "said"), [("KeyboardInterrupt", "program: interrupted\n"), ("ValueError(7)", None)])
def test_ctrl_c_is_one_line_and_a_fault_of_ours_keeps_its_traceback(raised, said):
    program = f"from contract.arguments import Arguments; Arguments(prog='program').parse_args([]); raise {raised}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if said:
        assert done.stderr == said and done.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    else:
        assert "Traceback" in done.stderr and done.stderr.endswith("ValueError: 7\n")


def test_ctrl_c_ends_imports_silently_and_a_program_with_a_line() -> None:
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "from contract.arguments import Arguments\n"
        "Arguments(prog='program').parse_args([])\n"
        "signal.raise_signal(signal.SIGINT)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "program: interrupted\n")


def test_a_path_at_home_is_there_whoever_read_the_line(monkeypatch):
    """zsh and YAML leave ~ as it is in ENGINE=~/mine: the engine was written into a directory of that name."""
    monkeypatch.setenv("HOME", "/home/me")
    parser = Arguments(prog="program")
    parser.add_argument("--out")
    parser.add_argument("--words", nargs="*")
    given = ["--out=~/a b", "--words", "~/mine", "~", "a~/b", "~you/b"]
    parsed = parser.parse_args(given)
    assert (parsed.out, parsed.words) == ("/home/me/a b", ["/home/me/mine", *given[3:]])
