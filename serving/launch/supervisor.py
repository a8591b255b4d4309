"""Start Triton and the gateway, watch them, restart a dead engine, drain on a signal, leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from contract.engine_dir import EngineInfo
from contract.paths import ROOT
from serving.launch import announcement, child, gateway, health, logs, rundir, triton
from serving.launch.config import Config, LaunchError, connectable
from serving.launch.deaths import AT_ONCE, WINDOW, Deaths
from serving.launch.drain import FLUSH_SECONDS, drain
from serving.launch.vitals import Vitals

WATCH_SECONDS = 0.1
CANARY_SECONDS = 120.0
STUBLESS_SECONDS = (
    1.0  # a model that raises says so in this time and Triton ends; of one that just ends it knows nothing
)
UNLOAD_SECONDS = 3.0  # from the last stream's end to a killed Triton: engines close their workers in this time
MODELS = ("tokenizer", "engine", "detokenizer")
LOGS = ROOT / ".run"
READINESS = "readiness"  # in the run directory


class Supervisor:
    """One serving session, from start to the last process gone."""

    def __init__(self, config: Config, engine: EngineInfo) -> None:
        self._config = config
        self._engine = engine
        self._base = f"http://{connectable(config.triton_host)}:{config.http_port}"
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._deaths = Deaths()
        self._gateway_deaths = Deaths()
        self._gateway_due = 0.0
        self._vitals: Vitals | None = None
        self._looked = 0.0
        self._log_start = 0
        self._signals = 0
        self._in_canary = False
        self._is_serving = False
        LOGS.mkdir(exist_ok=True)
        self._shm = f"qwen_{os.getpid()}_"
        self._run_dir, self._lock = rundir.create(self._shm)
        self._readiness = self._run_dir / READINESS
        self._say_ready("starting")

    def run(self) -> int:
        """Serve until a signal (0) or until the engine died too often (1)."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        try:
            self._start_triton()
            self._start_gateway()
            self._announce()
            return self._watch()
        finally:
            self._clean()

    # --- start -----------------------------------------------------------------------------------------------------

    def _log(self, name: str) -> Path:
        return LOGS / f"{name}-{self._config.http_port}.log"

    def _start_triton(self) -> None:
        """Until it generates. A crash on the way (a starved host can lose a stub's lock) is tried again."""
        self._launch_triton()
        stubless = 0.0
        while not health.is_ready(self._base):
            self._give_up_if_signalled()
            stubless = stubless + WATCH_SECONDS if child.has_dead_child(self._children["triton"].pid) else 0.0
            if self._broken() or stubless > STUBLESS_SECONDS:
                if (self._children["triton"].poll() or 0) >= 0:
                    raise LaunchError(f"Triton did not start: {self._why()} (log: {self._log('triton')})")
                print(f"starting again: {self._why()}", flush=True)
                self._await_turn()
                self._stop_dead_triton()
                self._launch_triton()
            time.sleep(WATCH_SECONDS)
        self._in_canary = True
        problem = health.generates(self._base, CANARY_SECONDS)
        self._in_canary = False
        if problem:
            raise LaunchError(f"the server is up but cannot generate: {problem} (log: {self._log('triton')})")
        self._vitals = Vitals(self._run_dir, connectable(self._config.triton_host), self._config.http_port)
        self._looked = time.monotonic()
        self._say_ready("")

    def _launch_triton(self) -> None:
        for file in self._run_dir.iterdir():
            if file.is_file() and file.name not in (READINESS, rundir.LOCK):
                file.unlink()
        command = triton.command(self._config, self._run_dir, self._shm)
        env = triton.environment(self._config, self._run_dir)
        with logs.open_private(self._log("triton"), "ab" if self._deaths else "wb") as log:
            self._log_start = log.tell()
            # SIGKILL: without its launcher nobody empties the engine first, and a Triton that got SIGTERM leaves its
            # open streams silent until their clients' time-outs. A broken connection they notice, and go on elsewhere.
            self._children["triton"] = child.start(command, env, log, ROOT, signal.SIGKILL)
        print(f"starting Triton on {self._engine.model.name} ({self._engine.runtime.name}, {self._engine.precision}) …",
              flush=True)  # fmt: skip

    def _stop_dead_triton(self) -> None:
        if self._vitals:
            self._vitals.close()
            self._vitals = None
        child.stop(self._children.pop("triton"), 0)
        rundir.remove_shm(self._shm)

    def _start_gateway(self) -> None:
        config = self._config
        if not config.gateway_port:
            return
        env = gateway.environment(config, self._run_dir, self._readiness)
        with logs.open_private(self._log("gateway"), "ab" if self._is_serving else "wb") as log:
            process = child.start([sys.executable, "-m", "serving.gateway"], env, log, ROOT)
        self._children["gateway"] = process
        if self._is_serving:
            return  # a restarted one is watched like Triton, not waited for
        base = f"http://{connectable(config.host)}:{config.gateway_port}"
        while not health.answers(f"{base}/health/ready"):
            self._give_up_if_signalled()
            if self._broken():  # it waits for Triton, and the watch restarts that
                return
            if process.poll() is not None:
                raise LaunchError(f"the gateway did not start: {logs.last_line(self._log('gateway'))}")
            time.sleep(WATCH_SECONDS)

    def _announce(self) -> None:
        self._is_serving = True
        print(announcement.text(self._config, self._engine, self._log("triton")), flush=True)

    # --- watch -----------------------------------------------------------------------------------------------------

    def _watch(self) -> int:
        while not self._signals:
            time.sleep(WATCH_SECONDS)
            self._watch_gateway()
            if reason := self._dead_or_hung():
                self._restart(reason)
        return 0

    def _dead_or_hung(self) -> str:
        """Why Triton must be started again. Keeps the readiness word of all gateway workers up to date."""
        if "triton" not in self._children or self._vitals is None:
            return "it did not start"
        if self._broken():
            return self._why()
        now = time.monotonic()
        self._vitals.look(now - self._looked)
        self._looked = now
        self._say_ready(self._vitals.unready())
        return self._vitals.hung()

    def _restart(self, reason: str) -> None:
        self._say_ready(f"restarting: {reason}")
        print(f"the engine died: {reason} (log: {self._log('triton')})", flush=True)
        if (self._run_dir / "dead").exists():  # its process lives for a moment, to tell its clients
            time.sleep(FLUSH_SECONDS)
        self._stop_dead_triton()
        try:
            self._await_turn()
            print("restarting Triton", flush=True)
            self._start_triton()
        except LaunchError as error:
            if self._signals or self._has_died_too_often():
                raise
            print(f"not yet: {error}", flush=True)
            return
        print("serving again", flush=True)

    def _watch_gateway(self) -> None:
        """It comes back for as long as Triton is well."""
        process = self._children.get("gateway")
        if process is None or process.poll() is None:
            return
        now = time.monotonic()
        if not self._gateway_due:
            pause = self._gateway_deaths.add(now)
            self._gateway_due = now + pause
            print(f"the gateway ended ({child.cause(process.returncode)}; log: {self._log('gateway')}); "
                  f"restarting it{f' in {pause:.0f} s' if pause else ''}", flush=True)  # fmt: skip
        if now >= self._gateway_due:
            self._gateway_due = 0.0
            self._start_gateway()

    def _await_turn(self) -> None:
        """Count a death; from the fourth in ten minutes on, wait before the next start, or give up if so asked."""
        pause = self._deaths.add(time.monotonic())
        if self._has_died_too_often():
            raise LaunchError(f"{len(self._deaths)} deaths in {WINDOW:.0f} s, giving up (log: {self._log('triton')})")
        if pause:
            print(f"{len(self._deaths)} deaths in ten minutes: the next start is in {pause:.0f} s", flush=True)
        until = time.monotonic() + pause
        while time.monotonic() < until:
            self._give_up_if_signalled()
            self._watch_gateway()
            time.sleep(WATCH_SECONDS)

    def _has_died_too_often(self) -> bool:
        limit = self._config.max_restarts or (0 if self._is_serving else AT_ONCE)  # one that never served never will
        return bool(limit) and len(self._deaths) > limit

    def _say_ready(self, problem: str) -> None:
        """One word for all gateway workers: why requests are not answered now, or nothing."""
        if not self._readiness.exists() or self._readiness.read_text() != problem:
            partial = self._readiness.with_suffix(".new")
            partial.write_text(problem)
            partial.replace(self._readiness)

    def _broken(self) -> bool:
        """Triton or one of its model processes is gone. Triton itself would let their streams wait for ever."""
        if self._children["triton"].poll() is not None or (self._run_dir / "dead").exists():
            return True
        return not all(self._has_process(name) for name in MODELS)

    def _has_process(self, model: str) -> bool:
        try:
            return child.is_alive(int((self._run_dir / f"{model}.pid").read_text()))
        except (OSError, ValueError):
            return True  # it has not started yet

    def _why(self) -> str:
        """What is known for certain: the engine's own word, which process is gone, or why Triton does not load.

        Web clients read it too, so it names no path."""
        with contextlib.suppress(OSError):
            return (self._run_dir / "dead").read_text()
        code, log = self._children["triton"].poll(), self._log("triton")
        if self._vitals is None:  # it is still starting: its log says why it does not
            return logs.error_line(log, code, self._log_start)
        if code is not None:
            return f"tritonserver ended ({child.cause(code)})"
        gone = [name for name in MODELS if not self._has_process(name)]
        return f"the {' and the '.join(gone)} process is gone"

    # --- end -------------------------------------------------------------------------------------------------------

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals == 1:
            self._say_ready("draining")
            print(f"\nstopping: open streams get {self._config.drain} s to end (again: stop at once)", flush=True)
        if self._in_canary:  # it may take minutes and cannot look
            self._in_canary = False
            raise LaunchError("stopped while starting")

    def _give_up_if_signalled(self) -> None:
        if self._signals:
            raise LaunchError("stopped while starting")

    def _clean(self) -> None:
        """The gateway drains first: it needs Triton for its open streams."""
        deadline = time.monotonic() + (self._config.drain if self._is_serving else 0)
        if "gateway" in self._children:
            self._stop(self._children.pop("gateway"), deadline)
        if "triton" in self._children:
            drain(self._run_dir, deadline, lambda: self._signals < 2 and not self._broken())
            self._stop(self._children.pop("triton"), time.monotonic() + UNLOAD_SECONDS)
        rundir.remove_shm(self._shm)
        shutil.rmtree(self._run_dir, ignore_errors=True)
        self._lock.close()

    def _stop(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        """SIGTERM, patience until ``deadline`` or a second signal, then SIGKILL to what is left of its session."""
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        while process.poll() is None and time.monotonic() < deadline and self._signals < 2:
            time.sleep(0.05)
        child.stop(process, 0)
