"""`python -m serving`: what `make serve` runs."""

from __future__ import annotations

import contract.program

import os
import signal
import sys

from contract import standard_streams
from serving import tracing
from serving.launch import docker, gateway, limits, rundir
from serving.launch.config import LaunchError, check_ports, parse
from serving.launch.engine import prepare
from serving.launch.supervisor import Supervisor


def main() -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    standard_streams.lenient()  # a locale without "…" still serves
    try:
        config = parse()
        limits.allow_files()
        limits.allow_threads()
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


if __name__ == "__main__":
    standard_streams.unattended()  # its log is in a file, and a server serves though nobody reads along
    sys.exit(main())
