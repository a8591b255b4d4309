"""What shows that a Triton that is still starting never will be ready. It says nothing of it itself."""

from __future__ import annotations

from serving.launch import child
from serving.launch.vitals import HANG_SECONDS

# A model that raises ends Triton with its reason within this time; a model process that just ends goes unnoticed.
STUBLESS_SECONDS = 1.0
# A starting Triton waits for the end of a model process only when it could not start it. One that raised ends by then.
WAIT_SECONDS = 20.0


class StartWatch:
    def __init__(self) -> None:
        self._stubless, self._stopped, self._waiting = child.Lasting(), child.Lasting(), child.Lasting()
        self._halted = False

    def look(self, pid: int) -> str:
        """Why this Triton has to be started again; "" while it may still come up. There is no limit on the time that
        it takes: large engines take minutes."""
        self._halted = child.has_stopped(pid)
        if self._stopped.seconds(self._halted) > HANG_SECONDS:
            return f"a process of Triton's has been stopped for {HANG_SECONDS:.0f} s"
        if self._waiting.seconds(not self._halted and child.awaits_child(pid)) > WAIT_SECONDS:
            return f"Triton has given up a model process and waited {WAIT_SECONDS:.0f} s for its end"
        return ""

    def has_lost_a_stub(self, pid: int) -> bool:
        """``look`` comes first: a stopped Triton does not ask for the exit codes of its short-lived children."""
        return self._stubless.seconds(not self._halted and child.has_dead_child(pid)) > STUBLESS_SECONDS
