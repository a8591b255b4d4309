"""`python -m serving`: what `make serve` runs."""

from __future__ import annotations

import os
import sys

from serving.launch import docker, rundir
from serving.launch.config import LaunchError, check_ports, parse
from serving.launch.engine import prepare
from serving.launch.supervisor import Supervisor


def main() -> int:
    try:
        config = parse()
        rundir.await_ending()
        check_ports(config)
        config, engine = prepare(config)
        docker.require_fit(engine)
        if docker.needed(engine):
            docker.replace_process(config)
        os.umask(0o077)  # logs, run directory and Triton's shared memory hold what users write
        return Supervisor(config, engine).run()
    except LaunchError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nserve: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
