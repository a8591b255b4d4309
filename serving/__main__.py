"""`python -m serving`: what `make serve` runs."""

from __future__ import annotations

import sys

from serving.launch.config import LaunchError, check_ports, parse
from serving.launch.engine import prepare
from serving.launch.supervisor import Supervisor


def main() -> int:
    try:
        config = parse()
        check_ports(config)
        return Supervisor(config, prepare(config)).run()
    except LaunchError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nserve: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
