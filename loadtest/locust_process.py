"""Locust's own command, for ``command.locust_command``: Ctrl-C before ``session.on_interrupt`` prints no traceback."""

from __future__ import annotations

import signal


def run() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from locust.main import main

    main()


if __name__ == "__main__":
    run()
