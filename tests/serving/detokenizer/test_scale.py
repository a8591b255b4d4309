"""Small hosts leave their cores to the gateway, large ones send finer text."""

from __future__ import annotations

import pytest

from serving.detokenizer import scale


@pytest.mark.parametrize(
    ("cores", "processes", "threads"),
    [(1, 1, 1), (2, 1, 1), (4, 2, 1), (7, 3, 1), (8, 4, 2), (12, 4, 3), (16, 4, 3), (192, 4, 3)],
)
def test_processes_and_their_threads_follow_the_cores(cores: int, processes: int, threads: int) -> None:
    assert (scale.processes(cores), scale.threads(cores)) == (processes, threads)
