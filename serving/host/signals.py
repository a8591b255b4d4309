"""What asks a server to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType


def on_signals(react: Callable[[int, FrameType | None], None]) -> None:
    """Ctrl-C, SIGTERM and a terminal that closes, which counts once: its shell says so, and the kernel does again.
    Under ``nohup`` the process outlives its terminal."""

    def hung_up(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        react(number, frame)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, react)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hung_up)
