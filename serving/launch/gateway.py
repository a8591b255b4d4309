"""The gateway as the launcher's child: started, watched, started again for as long as Triton is well, and ended.

Its supervisor watches the workers; nobody but the launcher can see that the supervisor itself hangs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from contract.heartbeat import Heartbeat, Pulse, launcher_path, supervisor_path, worker_path
from contract.paths import ROOT
from serving.launch import child, logs
from serving.launch.config import Config, LaunchError, is_free, reach
from serving.launch.deaths import Deaths

HOME = "gateway"  # its folder in the run directory
HANG_SECONDS = 6.0  # a supervisor silent for this long is replaced
START_SECONDS = 60.0  # the same for one that has not shown itself yet
ORPHAN_HANG_SECONDS = 2.0  # workers without a supervisor that are silent for this long, or older than drain and this
ORPHAN_SECONDS = 4.0


@dataclass
class Orphan:
    """A worker whose supervisor is gone: it leaves the port at once, and ends when its streams have."""

    pid: int
    handle: int  # pidfd: never another process, whatever becomes of the number
    pulse: Pulse
    until: float
    looked: float = field(default_factory=time.monotonic)

    def end_in_time(self, now: float, *, at_once: bool) -> bool:
        """Kill it when it is late; whether it has ended."""
        silent, self.looked = self.pulse.look(now - self.looked), now
        if at_once or now > self.until or silent > ORPHAN_HANG_SECONDS:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.handle, signal.SIGKILL)
        if child.is_alive(self.pid):
            return False
        os.close(self.handle)
        self.pulse.close()
        return True


class GatewayChild:
    """``start`` it, ``look`` at every turn, ``stop`` it."""

    def __init__(self, config: Config, run_dir: Path, log: Path) -> None:
        self._config, self._log = config, log
        self._home = run_dir / HOME
        self._home.mkdir()
        self.readiness = self._home / "readiness"  # one word for all workers, see ``Supervisor``
        self._heartbeat = Heartbeat.create(launcher_path(self._home))
        self._process: subprocess.Popen[bytes] | None = None
        self._pulse = Pulse(supervisor_path(self._home))
        self._orphans: list[Orphan] = []
        self._deaths = Deaths()
        self._looked = 0.0
        self._due = 0.0  # when to start the next one; 0: not decided
        self._patience = 0.0  # until when that one waits for the port

    @property
    def url(self) -> str:
        return f"http://{reach(self._config.host, self._config.gateway_port)}"

    def beat(self) -> None:
        """At every turn of the launcher: the gateway sees by it that somebody watches."""
        self._heartbeat.beat()

    def start(self) -> None:
        self._pulse.close()
        supervisor_path(self._home).unlink(missing_ok=True)
        self._pulse = Pulse(supervisor_path(self._home))
        self._looked, self._due = time.monotonic(), 0.0
        with logs.open_private(self._log, "ab" if self._deaths else "wb") as log:
            self._process = child.start([sys.executable, "-m", "serving.gateway"], self._environment(), log, ROOT)

    def _environment(self) -> dict[str, str]:
        config = self._config
        return dict(os.environ) | {
            "ENGINE_DIR": str(config.engine),
            "TRANSFORMERS_VERBOSITY": "error",
            "HF_HUB_OFFLINE": "1",
            "GATEWAY_PORT": str(config.gateway_port),
            "HOST": config.host,
            "RUN_DIR": str(self._home),
            "GATEWAY_READINESS_FILE": str(self.readiness),
            "GATEWAY_LAME_DUCK_SECONDS": str(config.lame_duck),
            "GATEWAY_DRAIN_SECONDS": str(config.drain),
            "TRITON_GRPC": reach(config.inner_host, config.inner_grpc_port),
            "TRITON_METRICS": f"http://{reach(config.inner_host, config.metrics_port)}/metrics",
        }

    @property
    def ended(self) -> str:
        """Its last word, if it has ended."""
        return logs.last_line(self._log) if self._process and self._process.poll() is not None else ""

    # --- watch -----------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Replace a supervisor that has ended or hangs; end orphans that hang."""
        if self._process is None:
            return
        now = time.monotonic()
        self._end_orphans(now)
        elapsed, self._looked = now - self._looked, now
        if self._process.poll() is None:
            self._kill_if_hung(self._process, elapsed)
            return
        if not self._due:
            self._mourn(self._process.returncode, now)
        if now >= self._due and (now >= self._patience or self._has_port()):
            self.start()

    def _has_port(self) -> bool:
        with contextlib.suppress(LaunchError):  # its address is gone: the gateway will say so
            return is_free("HOST", self._config.host, self._config.gateway_port)
        return False

    def _kill_if_hung(self, process: subprocess.Popen[bytes], elapsed: float) -> None:
        silent = self._pulse.look(elapsed)
        if silent > (HANG_SECONDS if self._pulse.has_begun else START_SECONDS):
            logs.say(f"the gateway's supervisor has not run for {silent:.0f} s")
            process.kill()
            process.wait()

    def _mourn(self, returncode: int, now: float) -> None:
        pause = self._deaths.add(now)
        self._due = now + pause
        self._patience = self._due + self._config.drain + ORPHAN_SECONDS
        self._adopt(now)
        logs.say(
            f"the gateway ended ({child.cause(returncode)}; log: {self._log}); "
            f"restarting it{f' in {pause:.0f} s' if pause else ''}"
        )

    def _adopt(self, now: float) -> None:
        """Find the workers of the supervisor that has just ended, by their environment."""
        known = {orphan.pid for orphan in self._orphans}
        until = now + self._config.drain + ORPHAN_SECONDS
        for process in Path("/proc").glob("[0-9]*"):
            pid = int(process.name)
            with contextlib.suppress(OSError):  # it has ended, or is not ours
                directory = _worker_directory((process / "environ").read_bytes(), self._home)
                if directory and pid not in known:
                    self._orphans.append(Orphan(pid, os.pidfd_open(pid), Pulse(worker_path(directory, pid)), until))

    def _end_orphans(self, now: float, *, at_once: bool = False) -> None:
        self._orphans = [orphan for orphan in self._orphans if not orphan.end_in_time(now, at_once=at_once)]

    # --- end -------------------------------------------------------------------------------------------------------

    def stop(self, stop: Callable[[subprocess.Popen[bytes]], None], patient: Callable[[], bool]) -> None:
        """``stop`` the supervisor, which drains; workers that it leaves behind get what time they have left."""
        if self._process is None:
            return
        stop(self._process)
        now = time.monotonic()
        self._adopt(now)
        until = now + ORPHAN_SECONDS
        while self._orphans:
            now = time.monotonic()
            self._end_orphans(now, at_once=now > until or not patient())
            time.sleep(0.05)
        self._pulse.close()
        self._heartbeat.close()


def _worker_directory(environment: bytes, home: Path) -> Path | None:
    """Where a process beats, if it is a worker of the gateway whose folder ``home`` is."""
    words = environment.split(b"\0")
    found = next((word.partition(b"=")[2] for word in words if word.startswith(b"GATEWAY_RUN_DIR=")), b"")
    return Path(os.fsdecode(found)) if found and f"RUN_DIR={home}".encode() in words else None
