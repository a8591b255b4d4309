"""What the launcher checks before anything starts. One clear line each."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from serving.detokenizer import scale
from serving.launch import child, triton
from serving.launch.config import DEFAULT_ENGINE, OPTIONS, SIMULATED_ENGINE, LaunchError, check_ports, parse
from serving.launch.logs import error_line, last_line, open_private
from serving.runtimes.base import RuntimeOptions
from serving.triton.settings import StepSettings
from tests.waiting import until

READY = re.compile(r"^ready (\S+)$", re.MULTILINE)


def problem(*arguments: str) -> str:
    with pytest.raises(LaunchError) as caught:
        check_ports(parse(list(arguments)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--http-port=0", "HTTP_PORT=0 is out of range; give a number between 1 and 65535"),
        ("--grpc-port=70000", "GRPC_PORT=70000 is out of range; give a number between 1 and 65535"),
        ("--metrics-port=-1", "METRICS_PORT=-1 is out of range; give a number between 1 and 65535"),
        ("--gateway-port=65536", "GATEWAY_PORT=65536 is out of range; give a number between 0 and 65535"),
        ("--step-ms=nan", "STEP_MS=nan is out of range; give a number between 0 and 3600000"),
        ("--step-ms=-5", "STEP_MS=-5 is out of range"),
        ("--drain=-1", "DRAIN=-1 is out of range"),
        ("--lame-duck=-1", "LAME_DUCK=-1 is out of range"),
        ("--kv-cache-gb=-1", "KV_CACHE_GB=-1 is out of range"),
        ("--max-streams=0", "MAX_STREAMS=0 is out of range"),
        ("--queue-limit=-1", "QUEUE_LIMIT=-1 is out of range; give a number between 0 and 1048576"),
        ("--gpu-memory-fraction=1.5", "GPU_MEMORY_FRACTION=1.5 is out of range; give a number between 0.1 and 0.98"),
        ("--threads=-1", "THREADS=-1 is out of range"),
        ("--prefill-ms-per-token=inf", "PREFILL_MS_PER_TOKEN=inf is out of range"),
        ("--fault=explode@3", "FAULT: 'explode@3' is not die@N, error@N, eos@N or stall@N:SECONDS"),
        ("--fault=die@x", "FAULT: 'die@x' is not die@N"),
        ("--fault=stall@3:long", "FAULT: 'stall@3:long' is not die@N"),
        ("--triton-host=256.1.1.1", "TRITON_HOST=256.1.1.1 cannot be used"),
        ("--host=256.1.1.1", "HOST=256.1.1.1 cannot be used"),
        (
            "--triton-host=192.0.2.1",
            "TRITON_HOST=192.0.2.1 port 8000 cannot be bound (Cannot assign requested address); give an",
        ),
    ],
)
def test_a_value_that_makes_no_sense(argument: str, line: str) -> None:
    assert problem(argument).startswith(line)


def test_the_command_for_other_ports_keeps_the_model() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = problem("--model=my models/qwen", f"--http-port={taken.getsockname()[1]}")
    assert "make serve MODEL='my models/qwen' HTTP_PORT=" in said


def test_host_without_a_gateway_says_whose_it_is() -> None:
    line = "HOST=0.0.0.0 is the gateway's, and GATEWAY_PORT=0 starts none; TRITON_HOST is Triton's"
    assert problem("--host=0.0.0.0", "--gateway-port=0") == line


def test_a_lame_duck_without_a_gateway_would_be_seen_by_no_router() -> None:
    line = "LAME_DUCK=3 shows at the gateway's /health/ready, and GATEWAY_PORT=0 starts none"
    assert problem("--lame-duck=3", "--gateway-port=0") == line


def test_triton_stays_on_localhost_and_gets_no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GATEWAY_API_KEYS", "GATEWAY_API_KEYS_FILE", "HF_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "secret")
    config = parse(["--host=0.0.0.0"])
    addresses = [part for part in triton.command(config, tmp_path, "x_") if "-address=" in part]
    assert len(addresses) == 3 and all(part.endswith("=127.0.0.1") for part in addresses)
    assert "secret" not in triton.environment(config, tmp_path).values()


def test_an_ipv6_address_as_each_part_of_triton_wants_it(tmp_path: Path) -> None:
    command = triton.command(parse(["--triton-host=::1"]), tmp_path, "x_")
    assert {"--http-address=ipv6:::1", "--grpc-address=[::1]", "--metrics-address=ipv6:::1"} < set(command)


def test_a_log_is_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "log").touch(mode=0o644)
    with open_private(tmp_path / "log", "ab"):
        assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_a_log_may_be_truncated_while_it_is_written(tmp_path: Path, mode: str) -> None:
    with open_private(tmp_path / "log", mode) as log:
        subprocess.run(["echo", "before"], stdout=log, check=True)
        (tmp_path / "log").write_bytes(b"")  # logrotate's copytruncate
        subprocess.run(["echo", "after"], stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "after\n"


def test_two_services_on_one_port() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = [f"--{name}-port={port}" for name in ("http", "grpc", "metrics")]
    same = f"HTTP_PORT and GRPC_PORT and METRICS_PORT are the same port, {port}; give each its own"
    assert problem(*flags, "--gateway-port=0") == same


NUMBERS = ("LAME_DUCK", "DRAIN", "MAX_RESTARTS", *(f"{name}_PORT" for name in ("HTTP", "GRPC", "METRICS", "GATEWAY")))


@pytest.mark.parametrize("text", ["abc", "", "1.5.2"])
@pytest.mark.parametrize("variable", [*NUMBERS, *(option.variable for option in OPTIONS if option.type is not str)])
def test_what_is_no_number_is_told_by_the_name_that_was_typed(variable: str, text: str) -> None:
    said = problem(f"--{variable.lower().replace('_', '-')}={text}")
    assert re.fullmatch(f"{variable}={text} is not a (whole )?number: give one, or leave it out", said)


def test_every_option_reaches_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--max-streams=7", "--queue-limit=3", "--kv-cache-gb=2", "--gpu-memory-fraction=0.5", "--threads=3"]
    flags += ["--exact=1"]
    config = parse([*flags, "--step-ms=4", "--prefill-ms-per-token=0.5", "--fault=die@3"])
    for name, value in (config.environment | {"ENGINE_DIR": "/e", "RUN_DIR": "/r"}).items():
        monkeypatch.setenv(name, value)
    settings = StepSettings.from_environment()
    wanted = RuntimeOptions(
        7, 2 * 2**30, 0.5, step_ms=4, prefill_ms_per_token=0.5, fault="die@3", threads=3, exact=True
    )
    assert (settings.queue_limit, settings.runtime) == (3, wanted)


def test_the_defaults_of_the_launcher_are_those_of_the_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (parse([]).environment | {"ENGINE_DIR": "/e", "RUN_DIR": "/r"}).items():
        monkeypatch.setenv(name, value)
    assert StepSettings.from_environment().runtime == RuntimeOptions()


def test_the_engine_that_is_served() -> None:
    assert parse([]).engine == DEFAULT_ENGINE.resolve()
    assert parse(["--runtime", "simulated"]).engine == SIMULATED_ENGINE.resolve()
    assert parse(["--runtime", "simulated", "--engine", "/x"]).engine == Path("/x")


def says_ready(log: Path) -> str:
    """The line that a child prints last, once it has. Its log may hold more: what libraries write while it starts."""
    until(lambda: READY.search(log.read_text()), why=log.read_text)
    return READY.findall(log.read_text())[0]


STUBBORN = """
import signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", subprocess.Popen(["sleep", "600"]).pid, flush=True)
time.sleep(600)
"""


def test_a_child_ends_with_its_group(tmp_path: Path) -> None:
    """The whole process group, stubborn grandchildren too."""
    with (tmp_path / "log").open("wb") as log:
        process = child.start([sys.executable, "-c", STUBBORN], dict(os.environ), log, tmp_path)
    grandchild = int(says_ready(tmp_path / "log"))
    assert child.stop(process, 0.2) is False, "it had to be killed"
    until(lambda: not child.is_alive(grandchild))
    assert process.returncode == -signal.SIGKILL


MAPPER = """
import os, sys, time
from multiprocessing import resource_tracker, shared_memory
if os.fork() == 0:
    made = shared_memory.SharedMemory(create=True, size=4096)
    resource_tracker.unregister(made._name, "shared_memory")  # as after a kill: nobody else removes it
    print("ready", made.name, flush=True)
time.sleep(60)
"""


def test_shared_memory_of_a_killed_worker_is_removed(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        process = child.start([sys.executable, "-c", MAPPER], dict(os.environ), log, tmp_path)
    segment = Path("/dev/shm") / says_ready(tmp_path / "log")
    assert segment.is_file() and child.worker_segments(process.pid) == {segment}
    child.stop(process, 5)
    assert not segment.exists()


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen(["true"])
    until(lambda: not child.is_alive(process.pid))
    process.wait()


def test_a_stopped_process_is_seen_until_it_goes_on(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        process = child.start(["sh", "-c", "sleep 60 & wait"], dict(os.environ), log, tmp_path)
    until(lambda: bool(psutil.Process(process.pid).children()))  # a busy machine starts a shell late
    sleeper = psutil.Process(process.pid).children()[0]
    lasting = child.Lasting()
    assert not child.has_stopped(process.pid) and lasting.seconds(False) == 0
    sleeper.suspend()
    until(lambda: child.has_stopped(process.pid))
    assert not child.has_stopped(os.getpid()), "another group's"
    assert lasting.seconds(True) == 0 and lasting.seconds(True) > 0 and lasting.seconds(False) == 0
    sleeper.resume()
    until(lambda: not child.has_stopped(process.pid))
    child.stop(process, 5)


def test_who_waits_for_a_child_is_seen(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import subprocess; subprocess.Popen(['sleep', '60']).wait()"]
    with (tmp_path / "log").open("wb") as log:
        process = child.start(command, dict(os.environ), log, tmp_path)
    until(lambda: child.awaits_child(process.pid))
    assert not child.awaits_child(os.getpid()) and not child.awaits_child(2**22 + 1)
    child.stop(process, 0)


def test_the_line_of_tritons_log_that_matters(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("I1 fine\nE2 first\ncontract.errors.EngineDirectoryError: rebuild it\nE3 failed to load, Error: x\n")
    assert error_line(log, 1) == "rebuild it"
    log.write_text("I1 fine\nE2 bind: address in use\n")
    assert error_line(log, 1) == "E2 bind: address in use"
    log.write_text('E1 x.cc:692] "ERROR: Failed to create instance: a.BadError: too large\\n\\nAt:\\n  /x.py(3)"\n')
    assert error_line(log, 1) == "too large", "Triton writes a traceback into one line"
    log.write_text("FileNotFoundError: [Errno 2] No such file or directory: 'x.json'\n")
    assert error_line(log, 1) == "No such file or directory: 'x.json'"
    log.write_text("KeyError: 'x'\n")
    assert error_line(log, 1) == "KeyError: 'x'", "alone it says nothing"
    log.write_text("")
    assert error_line(log, 1) == "it ended without a message"
    log.write_text("E1 since the rotation\n")
    assert error_line(log, 1, 10_000) == "E1 since the rotation", "its start lies beyond a log that was truncated"
    log.unlink()
    assert error_line(log, 1) == "it ended without a message" and last_line(log) == f"see {log}"
    for sign in ("terminate called\n  what():  std::bad_alloc\n", "MemoryError: <EMPTY MESSAGE>\n"):
        log.write_text(sign)
        assert error_line(log, -6).startswith("there is not enough memory")
    for sign in ("  what():  Resource temporarily unavailable\n", "RuntimeError: can't start new thread\n"):
        log.write_text(sign)
        assert error_line(log, -6).startswith("no thread more is allowed")

    log.write_text("E1 Failed to initialize NVML\nI1 terminate called\n")
    assert error_line(log, -11) == "tritonserver was ended by SIGSEGV"


def test_limits_on_addresses_and_file_sizes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_text("RuntimeError: can't start new thread\n")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (700_000_000, 700_000_000))
    assert "ulimit -v" in error_line(tmp_path / "log", -6), "its threads have no room for their stacks"
    (tmp_path / "log").write_text("I1 fine\n")
    assert "ulimit -f" in error_line(tmp_path / "log", -signal.SIGXFSZ)


def test_the_repository_of_a_run_differs_by_the_detokenizers_count_alone(tmp_path: Path) -> None:
    for _ in range(2):  # Triton may be started again in the same directory
        argv = triton.command(parse([]), tmp_path, "x_")
    (copy,) = (Path(part.partition("=")[2]) for part in argv if part.startswith("--model-repository="))
    theirs = sorted(str(path.relative_to(copy)) for path in copy.glob("*/*"))
    ours = sorted(str(path.relative_to(triton.REPOSITORY)) for path in triton.REPOSITORY.glob("*/*"))
    assert theirs == ours
    count = f"count: {scale.processes(len(os.sched_getaffinity(0)))} kind"
    for path in copy.glob("*/config.pbtxt"):
        expected = (triton.REPOSITORY / path.relative_to(copy)).read_text(encoding="utf-8")
        if path.parent.name == "detokenizer":
            assert "count: 4 kind" in expected
            expected = expected.replace("count: 4 kind", count)
        assert path.read_text(encoding="utf-8") == expected
    assert (copy / "engine/1/model.py").resolve() == triton.REPOSITORY / "engine/1/model.py"
