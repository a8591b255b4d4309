"""The gateway as the launcher's child: starts it, watches it, restarts it for as long as Triton is well, and ends it.

Its supervisor watches the workers; nobody but the launcher can see that the supervisor itself hangs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from contract.heartbeat import Heartbeat, Pulse, launcher_path, supervisor_path, worker_path, worker_pids
from contract.paths import ROOT
from serving.gateway import listening
from serving.gateway.core import auth
from serving.gateway.settings import GatewaySettings, GatewaySettingsError
from serving.launch import child, logs, rundir
from serving.launch.config import Config, LaunchError, reach
from serving.launch.deaths import Deaths

HANG_SECONDS = 6.0  # a supervisor silent for this long is replaced
START_SECONDS = 60.0  # the same for one that has not shown itself yet
ORPHAN_HANG_SECONDS = 2.0  # a worker without a supervisor that is silent for this long is ended
LAST_EVENT_SECONDS = 3.0  # for the last events of workers that are left when all ends


def check(config: Config) -> None:
    """Raise ``LaunchError`` for a variable that the gateway would refuse, before Triton takes its time to start."""
    if not config.gateway_port:
        return
    try:
        auth.load(GatewaySettings.from_environment(dict(os.environ) | _variables(config)))
    except GatewaySettingsError as error:
        raise LaunchError(str(error)) from None


def _variables(config: Config) -> dict[str, str]:
    """What the launcher's own settings are for its gateway."""
    return {
        "ENGINE_DIR": str(config.engine),
        "GATEWAY_PORT": str(config.gateway_port),
        "HOST": config.host,
        "GATEWAY_LAME_DUCK_SECONDS": str(config.lame_duck),
        "GATEWAY_DRAIN_SECONDS": str(config.drain),
        "TRITON_GRPC": reach(config.inner_host, config.inner_grpc_port),
        "TRITON_METRICS": f"http://{reach(config.inner_host, config.metrics_port)}/metrics",
    }


@dataclass
class Orphan:
    """A worker whose supervisor is gone. It serves until it is relieved, and ends when its streams have."""

    pid: int
    handle: int  # a pidfd, which never means another process, even if the pid is reused
    pulse: Pulse
    is_relieved: bool = False
    looked: float = field(default_factory=time.monotonic)

    def relieve(self) -> None:
        """Tell the worker that others serve now."""
        self.is_relieved = True
        self.tell(signal.SIGUSR1)

    def tell(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, number)

    def has_ended(self, now: float) -> bool:
        """Whether the worker has ended. Kills one that hangs."""
        silent, self.looked = self.pulse.look(now - self.looked), now
        if silent > ORPHAN_HANG_SECONDS:
            self.tell(signal.SIGKILL)
        if child.is_alive(self.pid):
            return False
        os.close(self.handle)
        self.pulse.close()
        return True


class GatewayChild:
    """``start`` it, ``look`` at every turn, ``stop`` it."""

    def __init__(self, config: Config, run_dir: Path, log: Path) -> None:
        self._config, self._log = config, log
        self._home = run_dir / rundir.GATEWAY
        self._home.mkdir()
        self.readiness = self._home / "readiness"  # one word for all workers, see ``Supervisor``
        self._heartbeat = Heartbeat.create(launcher_path(self._home))
        self.process: subprocess.Popen[bytes] | None = None
        self._pulse = Pulse(supervisor_path(self._home))
        self._orphans: list[Orphan] = []
        self._deaths = Deaths()
        self._looked = 0.0
        self._due = 0.0  # when to start the next one; 0: not decided
        self._port: socket.socket | None = None

    @property
    def url(self) -> str:
        return f"http://{reach(self._config.host, self._config.gateway_port)}"

    def beat(self) -> None:
        """Call at every turn of the launcher: it shows the gateway that somebody watches."""
        self._heartbeat.beat()

    def start(self) -> None:
        """Raises ``LaunchError`` when somebody else has taken the port."""
        self._port = self._port or self._hold_port()
        self._pulse.close()
        supervisor_path(self._home).unlink(missing_ok=True)
        self._pulse = Pulse(supervisor_path(self._home))
        self._looked, self._due = time.monotonic(), 0.0
        with logs.open_private(self._log, "ab" if self._deaths else "wb") as log:
            self.process = child.start([sys.executable, "-m", "serving.gateway"], self._environment(), log, ROOT)

    def _hold_port(self) -> socket.socket:
        """Hold the port for the launcher's whole life: nobody takes it while no gateway runs, and the workers of a new
        gateway can share it with those of the old one."""
        host, port = self._config.host, self._config.gateway_port
        try:
            return listening.hold(host, port)
        except OSError as error:
            raise LaunchError(f"GATEWAY_PORT={port} on {host} cannot be used: {error.strerror}") from None

    def _environment(self) -> dict[str, str]:
        return dict(os.environ) | {
            **_variables(self._config),
            "TRANSFORMERS_VERBOSITY": "error",
            "HF_HUB_OFFLINE": "1",
            "RUN_DIR": str(self._home),
            "GATEWAY_READINESS_FILE": str(self.readiness),
        }

    @property
    def ended(self) -> str:
        """The last line of its log, if it has ended."""
        return logs.last_line(self._log) if self.process and self.process.poll() is not None else ""

    # --- watch -----------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Replace a supervisor that has ended or hangs; end orphans that hang."""
        if self.process is None:
            return
        now = time.monotonic()
        self._end_orphans(now)
        elapsed, self._looked = now - self._looked, now
        if self.process.poll() is None:
            self._kill_if_hung(self.process, elapsed)
            self._relieve_orphans(self.process.pid)
            return
        if not self._due:
            self._schedule_restart(self.process.returncode, now)
        if now >= self._due:
            self.start()

    def _relieve_orphans(self, supervisor: int) -> None:
        """Relieve the old workers as soon as one of the new supervisor's listens."""
        serving = [orphan for orphan in self._orphans if not orphan.is_relieved]
        if serving and any(child.is_child(pid, supervisor) for pid in worker_pids(self._home)):
            for orphan in serving:
                orphan.relieve()

    def _kill_if_hung(self, process: subprocess.Popen[bytes], elapsed: float) -> None:
        silent = self._pulse.look(elapsed)
        if silent > (HANG_SECONDS if self._pulse.has_begun else START_SECONDS):
            logs.say(f"the gateway's supervisor has not run for {silent:.0f} s")
            process.kill()
            process.wait()

    def _schedule_restart(self, returncode: int, now: float) -> None:
        pause = self._deaths.add(now)
        self._due = now + pause
        self._adopt()
        logs.say(
            f"the gateway ended ({child.cause(returncode)}; log: {self._log}); "
            f"restarting it{f' in {pause:.0f} s' if pause else ''}"
        )

    def _adopt(self) -> None:
        """Find the workers of the supervisor that has just ended, by their environment."""
        known = {orphan.pid for orphan in self._orphans}
        for process in Path("/proc").glob("[0-9]*"):
            pid = int(process.name)
            with contextlib.suppress(OSError):  # it has ended, or is not ours
                directory = _worker_directory((process / "environ").read_bytes(), self._home)
                if directory and pid not in known:
                    self._orphans.append(Orphan(pid, os.pidfd_open(pid), Pulse(worker_path(directory, pid))))

    def _end_orphans(self, now: float) -> None:
        self._orphans = [orphan for orphan in self._orphans if not orphan.has_ended(now)]

    # --- end -------------------------------------------------------------------------------------------------------

    def stop(self, number: signal.Signals, ended: Callable[[subprocess.Popen[bytes]], None]) -> None:
        """Send ``number``, which makes the gateway drain. ``ended`` waits for the end of the supervisor; workers
        that it leaves behind get no more time."""
        if self.process is None:
            return
        self._tell_orphans(number)
        if self.process.poll() is None:
            self.process.send_signal(number)
        ended(self.process)
        self._adopt()
        self._tell_orphans(signal.SIGUSR2)
        until = time.monotonic() + LAST_EVENT_SECONDS
        while self._orphans:
            now = time.monotonic()
            if now > until:
                self._tell_orphans(signal.SIGKILL)
            self._end_orphans(now)
            time.sleep(0.05)
        self._pulse.close()
        self._heartbeat.close()
        if self._port:
            self._port.close()

    def _tell_orphans(self, number: signal.Signals) -> None:
        for orphan in self._orphans:
            orphan.tell(number)


def _worker_directory(environment: bytes, home: Path) -> Path | None:
    """The directory of a process's heartbeat, if its environment is that of a worker of the gateway in ``home``."""
    words = environment.split(b"\0")
    found = next((word.partition(b"=")[2] for word in words if word.startswith(b"GATEWAY_RUN_DIR=")), b"")
    return Path(os.fsdecode(found)) if found and f"RUN_DIR={home}".encode() in words else None
