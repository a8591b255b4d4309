"""What `make` refuses, and how: one line of ours for every wrong value, whichever target it is given to."""

from __future__ import annotations

import configparser
import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from contract.paths import ROOT
from serving.gateway.settings import GatewaySettings
from serving.launch import spelling
from serving.launch.config import OPTIONS
from tests.forking import Run, forking

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = sorted(set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, flags=re.MULTILINE)))
BUILD_VARIABLES = re.search(r"^BUILD_VARIABLES := (.*)$", MAKEFILE, flags=re.MULTILINE)[1].split()
# Each prints its arguments, one a line, in the place of Python.
ECHO = ["PY=printf '%s\\n'", "ORACLE=printf '%s\\n'"]


def make(*arguments: str, env: Mapping[str, str] = MappingProxyType({})) -> subprocess.CompletedProcess[str]:
    """As from a terminal: below `make test ARGS=…` it would say where it enters, as make[1], and take those ARGS."""
    ours = ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "ARGS")
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=inherited | env, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def programs():
    with forking("serving.__main__", "build_engine.__main__") as run:
        yield run


def refusal(programs: Run, *arguments: str) -> str:
    """The one line of `make`, or else of the program that it starts."""
    answer = make("-s", "PYTHON=true", *ECHO, *arguments)
    code, output = answer.returncode, answer.stdout + answer.stderr
    if not code:
        code, output = programs(output.splitlines())
    lines = [line for line in output.splitlines() if not line.startswith("note ")]
    assert code and len(lines) == 1, lines
    return lines[0]


def test_the_loops_below_see_every_target():
    assert {"serve", "engine", "plan", "preflight", "probe", "facts", "verify", "test", "lock", "loadtest"} <= set(
        TARGETS
    )


def test_an_unknown_runtime_is_refused_before_any_target_runs():
    answer = make("-n", *TARGETS, "RUNTIME=vlm")
    assert answer.returncode and "RUNTIME=vlm is unknown: use one of" in answer.stderr and not answer.stdout


def read_by(target: str) -> list[str]:
    return make("-s", f"--eval=asked: ; @echo $(READ_BY_{target})", "asked").stdout.split()


def given(*variables: str) -> dict[str, str]:
    """Each with a value of its own; of two only a few values are allowed."""
    return {name: {"RUNTIME": "vllm", "FP8_HEAD": "1"}.get(name, f"a '{name}") for name in variables}


def refuses(target: str, *variables: str) -> bool:
    answer = make("-s", target, "PYTHON=true", *ECHO, *map("=".join, given(*variables).items()))
    named = any(f"{name}= changes nothing in `make {target}`" in answer.stderr for name in variables)
    assert bool(answer.returncode) is named is ("it is read by make" in answer.stderr), answer
    return named


@pytest.mark.parametrize("target", ["serve", "chat", "probe", "verify", "plan", "preflight", "engine"])
def test_a_variable_is_read_or_refused_never_ignored(target):
    read = given(*read_by(target))
    lines = make("-s", target, "PYTHON=true", *ECHO, *map("=".join, read.items())).stdout.splitlines()
    assert {"--fp8-head" if name == "FP8_HEAD" else value for name, value in read.items()} <= set(lines)  # a switch
    others = set(BUILD_VARIABLES) - set(read)
    assert not others or refuses(target, *others)


@pytest.mark.parametrize("variable", BUILD_VARIABLES)
def test_a_variable_that_nothing_reads_is_refused_by_name(variable):
    assert refuses("chat", variable)


@pytest.mark.parametrize("setting", OPTIONS, ids=lambda setting: setting.variable)
def test_every_setting_of_the_models_reaches_the_server(setting):
    lines = make("-s", "serve", "PYTHON=true", *ECHO, f"{setting.variable}=7").stdout.splitlines()
    assert lines[lines.index(setting.flag) + 1] == "7"


@pytest.mark.parametrize(("target", "option"), [("serve", "--engine"), ("engine", "--out"), ("verify", "--engine")])
def test_an_engine_path_may_have_any_character(target, option):
    path = """my engines/a "b" it's $HOME"""
    lines = make("-s", target, "PYTHON=true", *ECHO, "ENGINE=" + path.replace("$", "$$")).stdout.splitlines()
    assert lines[lines.index(option) + 1] == path


SLIPS = [
    ("MODLE", "MODEL"), ("PRECISON", "PRECISION"), ("HTTPPORT", "HTTP_PORT"), ("USER", "USERS"), ("rate", "RATE"),
    ("DURATON", "DURATION"), ("RUNTIMES", "RUNTIME"), ("VLLM_ARG", "VLLM_ARGS"),
    ("TRITON_TLS_CLIENT", "TRITON_TLS_CLIENT_CA"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "meant"), SLIPS)
def test_a_mistyped_variable_is_named(given, meant):
    answer = make("-n", "setup", f"{given}=a b'c")
    assert f"{given}= is not a variable of this Makefile: did you mean {meant}=?" in answer.stderr
    assert answer.returncode and not answer.stdout


def test_what_the_programs_read_from_the_environment_may_be_given():
    settings = {field.metadata["env"] for field in dataclasses.fields(GatewaySettings)}
    foreign = {"PIP_INDEX_URL", "HTTP_PROXY", "HTTPS_PROXY", "PYTHONPATH", "HF_HOME", "HF_TOKEN", "LC_ALL", "HOME"}
    theirs = {"CUDA_VISIBLE_DEVICES", "OTEL_EXPORTER_OTLP_TIMEOUT", "OPENAI_API_KEY", "LOADTEST_HEADERS", "QWEN_TLS_CA"}
    own = {"PY", "ORACLE", "SHELL", "A", "B", "OUT", "ARGS", "WORSE", "SWEEP", *BUILD_VARIABLES}
    given = settings | foreign | theirs | own | {setting.variable for setting in OPTIONS}
    assert len(settings) > 10 and spelling.main(sorted(given)) == ""


def test_another_directorys_makefile_is_told_how_to_be_used(tmp_path):
    answer = make("-C", str(tmp_path), "-f", str(ROOT / "Makefile"), "serve")
    assert answer.returncode and "make -C DIRECTORY instead of make -f" in answer.stderr
    assert len([line for line in answer.stderr.splitlines() if "directory '" not in line]) == 1


def test_no_program_of_ours_sees_another_pythons_settings():
    """Debian's or ROS's packages would come before those of .venv, or pip would install elsewhere."""
    conf = configparser.ConfigParser()
    conf.read(ROOT / "serving/launch/pip.conf")
    pip = {f"PIP_{name.upper().replace('-', '_')}" for section in conf.sections() for name in conf[section]}
    names = {"PYTHONHOME", "PYTHONPATH", "PYTHONINSPECT", *pip}
    given = dict.fromkeys(names, "x") | {"PIP_INDEX_URL": "https://pypi.example"}
    assert "PIP_CONSTRAINT" in pip
    seen = {
        line.partition("=")[0] for line in make("-s", "probe", "PYTHON=true", "PY=env #", env=given).stdout.splitlines()
    }
    assert "PIP_INDEX_URL" in seen and not names & seen


def test_an_option_in_a_document_is_one_that_a_shell_takes():
    """``ARGS`` reaches a shell: parentheses without quotes were its syntax error."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = [given for page in pages for given in re.findall(r'\bARGS="([^"]+)"', page.read_text(encoding="utf-8"))]
    wrong = [given for given in found if subprocess.run(["bash", "-nc", f": {given}"], check=False).returncode]
    assert len(found) > 10 and wrong == []


WRONG = [
    ("serve", "HTTP_PORT=", "HTTP_PORT= is not a whole number: give one"),
    ("serve", "HOST=", "HOST= is empty: give an address of this machine, or leave it out"),
    ("engine", "GPU=h999", "GPU 'h999' is not known: choose one of"),
    ("engine", "KV=int3", "--kv: invalid choice: 'int3'"),
    ("engine", "TP=x", "--tp: 'x' is not a whole number"),
    ("engine", "BACKEND=x", "--backend: invalid choice: 'x'"),
    ("engine", "PROFILE=x", "profile 'x' is not one of"),
    ("engine", "ALPHA=x", "--alpha: 'x' is neither a number from 0 to 1 nor `sweep`"),
    ("engine", "ALPHA=7", "--alpha: '7' is neither"),
    ("engine", "PRECISION=x", "--precision: 'x' is unknown"),
    ("engine", "CONTEXT=x", "context 'x' is neither a number nor one of"),
    ("engine", "CALIBRATION=/none GPU=h100", "--calibration /none does not exist"),
    ("engine", "SPECULATE=x", "--speculate: invalid choice: 'x'"),
    ("engine", "LORA=x", "--lora: 'x' must be NAME=DIR"),
    ("engine", "VLLM_ARGS=x", "--vllm-args: 'x' is not JSON"),
    ("engine", "MODEL=/none", "--model: '/none' is neither a directory"),
    ("engine", "MODEL=", "MODEL= is empty"),
    ("plan", "GPU=x", "GPU 'x' is not known"),
    ("plan", "RUNTIME=openvino GPU=h100", "--runtime: invalid choice: 'openvino'"),
    ("plan", "TP=3 GPU=h100", "tensor parallel size 3 does not divide"),
    ("preflight", "RUNTIME=vllm", "--runtime: invalid choice: 'vllm'"),
    ("verify", "ENGINE=/none", "no engine at /none"),
    ("serve", "HTTP_PORT=x", "HTTP_PORT=x is not a whole number: give one"),
    ("serve", "GRPC_PORT=99999", "GRPC_PORT=99999 is out of range"),
    ("serve", "METRICS_PORT=-1", "METRICS_PORT=-1 is out of range"),
    ("serve", "GATEWAY_PORT=x", "GATEWAY_PORT=x is not a whole number: give one"),
    ("serve", "DRAIN=x", "DRAIN=x is not a whole number: give one"),
    ("serve", "MAX_RESTARTS=-1", "MAX_RESTARTS=-1 is out of range"),
    ("serve", "STEP_SECONDS=x", "STEP_SECONDS=x is not a number: give one"),
    ("serve", "STEP_MS=x", "STEP_MS=x is not a number: give one"),
    ("serve", "KV_CACHE_GB=x", "KV_CACHE_GB=x is not a number: give one"),
    ("serve", "THREADS=x", "THREADS=x is not a whole number: give one"),
    ("serve", "EXACT=2", "EXACT=2 is out of range"),
    ("serve", "GPU_MEMORY_FRACTION=9", "GPU_MEMORY_FRACTION=9 is out of range"),
    ("serve", "FAULT=x", "FAULT: 'x' is not"),
    ("serve", "HOST=nowhere.invalid", "HOST=nowhere.invalid cannot be used"),
    ("serve", "TRITON_HOST=nowhere.invalid", "TRITON_HOST=nowhere.invalid cannot be used"),
    ("serve", "ENGINE=/none", "no engine at /none"),
    ("chat", "GRPC_PORT=x", "address '127.0.0.1:x'"),
]


@pytest.mark.parametrize(("target", "given", "line"), WRONG)
def test_a_wrong_value_is_one_line(programs, target, given, line):
    assert line in refusal(programs, target, *given.split())


@pytest.mark.parametrize("python", ["", "/nowhere/python", "no such"])
def test_a_python_that_is_not_there_is_named(python):
    answer = make("-s", "setup", f"PYTHON={python}")
    assert f"PYTHON={python} is no program here: give a Python 3.10, 3.11 or 3.12" in answer.stderr
    assert answer.returncode and not answer.stdout
    assert make("-s", "help", f"PYTHON={python}").returncode == 0


# `fields`, `coverage` and such are for developers, and load little.
SLOW_TO_LOAD = sorted(
    name
    for name in set(re.findall(r"-m ((?:build_engine|client|deploy|loadtest|serving|tests)[a-z_.]*)", MAKEFILE))
    if name not in ("deploy.check", "deploy.generate", "serving.gateway.schema.coverage")
)


IN_DOCS = sorted(
    {
        name
        for page in (ROOT / "docs").glob("*.md")
        for name in re.findall(r"-m (loadtest(?:\.[a-z_]+)+)", page.read_text(encoding="utf-8"))
    }
    - set(SLOW_TO_LOAD)
)


@pytest.mark.parametrize("name", [*SLOW_TO_LOAD, *IN_DOCS, "serving.launch.bootstrap"])
def test_ctrl_c_while_a_program_loads_is_no_traceback(name: str) -> None:
    """Before it imports anything of ours or of others, SIGINT has its default again, or waits."""
    path = ROOT / name.replace(".", "/")
    files = [path / "__init__.py", path / "__main__.py"] if path.is_dir() else [path.with_suffix(".py")]
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    before, *guard = re.split(
        r"import contract.program\n|signal.pthread_sigmask\(signal.SIG_BLOCK, {signal.SIGINT}\)", source, maxsplit=1
    )
    imported = re.findall(r"^(?:from|import) ([a-z_]+)", before, flags=re.MULTILINE)
    assert guard and set(imported) <= sys.stdlib_module_names


@pytest.mark.parametrize("name", [*SLOW_TO_LOAD, "loadtest.locust_process", "serving/launch/bootstrap.py"])
def test_ctrl_c_while_python_starts_waits_for_the_program(name: str) -> None:
    """Python's own traceback comes out of the first tenth of a second. Here SIGINT is there before Python is."""

    def pending() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        # To this thread: what a library starts at a fork (OpenTelemetry's exporter does) does not block it.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    command = [sys.executable, *([name] if "/" in name else ["-m", name])]
    ended = subprocess.run(command, cwd=ROOT, preexec_fn=pending, capture_output=True, text=True, check=False)
    line = "\nsetup: interrupted; run the same command to continue\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == ((130, "", line) if "/" in name else (-2, "", ""))


def test_make_starts_our_programs_so_that_ctrl_c_waits_and_no_others() -> None:
    """One that never lets it in would not end."""
    recipes = re.findall(r"^\t(.*)$", MAKEFILE.replace("\\\n", " "), flags=re.MULTILINE)
    ours = re.compile("serving/launch/bootstrap.py|" + "|".join(rf"-m {name}(?= |$)" for name in SLOW_TO_LOAD))
    for recipe in recipes:
        assert bool(ours.search(recipe)) == bool(re.search(r"\$\((OURS|HOLD)\)", recipe)), recipe
    assert "exec env --block-signal=INT .venv/bin/python -m serving " in make("-n", "serve").stdout
