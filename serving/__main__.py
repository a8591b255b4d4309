"""`python -m serving`: what `make serve` runs."""

from __future__ import annotations

import contract.ctrl_c

import os
import resource
import signal
import sys

from contract import standard_streams
from serving import tracing
from serving.launch import docker, gateway, rundir
from serving.launch.config import LaunchError, check_ports, parse
from serving.launch.engine import prepare
from serving.launch.supervisor import Supervisor

FEWEST_FILES = 4096
# An idle tritonserver has 71 open, a stream adds two or three; with fewer than these it dies without a word that helps.
TOO_FEW_FILES = 256


def main() -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    standard_streams.lenient()  # a locale without "…" still serves
    try:
        config = parse()
        _allow_files()
        rundir.await_ending()
        check_ports(config)
        gateway.check(config)
        config, engine = prepare(config)
        docker.require_fit(engine)
        if docker.needed(engine):
            docker.replace_process(config)
        if problem := tracing.obstacle():
            raise LaunchError(problem)
        os.umask(0o077)  # logs, run directory and Triton's shared memory hold what users write
        Supervisor(config, engine).run()
        return 0
    except LaunchError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a directory of another user: its own words are the clearest
        print(f"serve: {error.filename or 'error'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nserve: stopped", file=sys.stderr)
        return 130


def _allow_files() -> None:
    """Every stream is a file or two, and a shell's soft limit may be small: use what the hard one allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if 0 <= hard < TOO_FEW_FILES:
        raise LaunchError(
            f"ulimit -Hn is {hard}: the server needs {TOO_FEW_FILES} open files, and 2 or 3 more for each stream; "
            f"raise it to {FEWEST_FILES} (ulimit -n, systemd's LimitNOFILE=, docker run --ulimit nofile={FEWEST_FILES})"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if 0 <= hard < FEWEST_FILES:  # RLIM_INFINITY is -1
        print(
            f"warning: ulimit -Hn is {hard}: connections beyond it are refused; raise it to {FEWEST_FILES} or more",
            flush=True,
        )


if __name__ == "__main__":
    standard_streams.unattended()  # its log is in a file, and a server serves though nobody reads along
    sys.exit(main())
