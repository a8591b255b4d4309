"""Empty the engine before Triton is told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from contract.ack_table import END, FILE_NAME, REFUSE, AckTable

FLUSH_SECONDS = 1.0  # an engine's last errors get this long to reach their clients


def drain(run_dir: Path, deadline: float, patient: Callable[[], bool], alive: Callable[[], bool]) -> None:
    """Refuse new requests and give open streams until ``deadline``, or until ``patient()`` is false.
    ``alive``: whether there is an engine that can end them.

    After SIGTERM Triton 2.51 refuses the ensemble's own inner requests too, so every gRPC stream would stall; and it
    counts a stream whose client went away as in flight for ever. The ack table has the true count.
    """
    try:
        ack_table = AckTable(run_dir / FILE_NAME)
    except (OSError, ValueError):
        return
    ack_table.closing = REFUSE
    _await_streams(ack_table, deadline, lambda: patient() and alive())
    ack_table.closing = END
    _await_streams(ack_table, time.monotonic() + FLUSH_SECONDS, alive)
    ack_table.close()


def _await_streams(ack_table: AckTable, deadline: float, patient: Callable[[], bool]) -> None:
    """Wait until no stream is open. The engine counts ten times a second, so a single zero is not enough."""
    zeros = 0
    while zeros < 5 and time.monotonic() < deadline and patient():
        time.sleep(0.05)
        zeros = 0 if ack_table.open_sequences else zeros + 1
