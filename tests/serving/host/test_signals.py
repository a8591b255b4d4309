"""Two signals of a terminal that closes are one."""

from __future__ import annotations

import signal

import pytest

from serving.host.signals import on_signals


@pytest.mark.parametrize(("before", "counted"), [(signal.SIG_DFL, 1), (signal.SIG_IGN, 0)], ids=["plain", "nohup"])
def test_a_terminal_that_closes_counts_once(before: signal.Handlers, counted: int) -> None:
    """The shell and the kernel both say it: a second signal would end open streams at once."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    kept, seen = [signal.getsignal(number) for number in numbers], list[int]()
    try:
        signal.signal(signal.SIGHUP, before)
        on_signals(lambda number, _: seen.append(number))
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGINT, signal.SIGINT):
            signal.raise_signal(number)
    finally:
        for number, handler in zip(numbers, kept, strict=True):
            signal.signal(number, handler)
    assert seen == [signal.SIGHUP] * counted + [signal.SIGINT] * 2
