"""``python -m loadtest`` (see ``cli``)."""

from __future__ import annotations

import signal
import sys


def run() -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while modules load ends the process without a traceback
    from contract import standard_streams
    from loadtest.cli import main

    standard_streams.lenient()

    return main()


if __name__ == "__main__":
    sys.exit(run())
