"""Locust's own command with what we mend in it."""

from __future__ import annotations

import os

from loadtest import locust_process


def test_a_child_that_is_long_gone_has_ended() -> None:
    pid = os.posix_spawnp("true", ["true"], dict(os.environ))
    assert locust_process.waitpid(pid, 0) == (pid, 0)
    assert locust_process.waitpid(pid, os.WNOHANG) == (pid, 0), "and again, when nobody knows it any more"
