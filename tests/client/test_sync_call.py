"""Leaving a synchronous call: grpc's one-receive rule must not end the thread that reads the rest."""

from __future__ import annotations

import threading

import pytest

from client._call import SyncCall


class InterruptedRpc:
    """A Ctrl-C left a receive under way: the next ones are refused until it has come in."""

    def __init__(self) -> None:
        self.refusals, self.ended = 3, threading.Event()

    def done(self) -> bool:
        return False

    def cancel(self) -> None:
        raise AssertionError("the call ends by itself")

    def __next__(self) -> bytes:
        if self.refusals:
            self.refusals -= 1
            raise ValueError("Internal gRPC call error 8")
        self.ended.set()
        raise StopIteration


def test_an_interrupted_receive_is_waited_for() -> None:
    rpc = InterruptedRpc()
    SyncCall(rpc, lambda: None).cancel()
    assert rpc.ended.wait(60)


def test_where_no_thread_starts_any_more_the_call_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12.1, from ``atexit`` on."""

    class Rpc:
        cancelled = False

        def done(self) -> bool:
            return False

        def cancel(self) -> None:
            self.cancelled = True

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    rpc = Rpc()
    call = SyncCall(rpc, lambda _: None)
    call.cancel()
    call.join(1)
    assert rpc.cancelled
