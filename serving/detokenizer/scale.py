"""How many processes and threads send text on a host of so many cores. Measured in docs/decisions.md."""

from __future__ import annotations


def processes(cores: int) -> int:
    """Each has a GIL of its own. On few cores more of them only take CPU time from the gateway."""
    return max(1, min(4, cores // 2))


def threads(cores: int) -> int:
    """That send text in each process: while one waits for Triton to take a response, the next one prepares its own."""
    return max(1, min(3, cores // 4))
