"""Start Triton and the gateway, watch them, restart a dead engine, drain on a signal, leave nothing behind."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType

from contract.engine_dir import EngineInfo
from contract.lifeline import Lifeline
from contract.paths import ROOT
from serving import session_dir
from serving.host import oom, orphans, signals
from serving.launch import announcement, child, health, logs, rundir, shm, triton
from serving.launch.config import Config, LaunchError, connectable, reach
from serving.launch.deaths import AT_ONCE, WINDOW, Deaths
from serving.launch.drain import FLUSH_SECONDS, OpenStreams, await_gateway, drain
from serving.launch.gateway import GatewayChild
from serving.launch.grpc_proxy import GrpcProxy
from serving.launch.leftovers import Leftovers
from serving.launch.readiness import Readiness
from serving.launch.start_watch import StartWatch
from serving.launch.vitals import Vitals

WATCH_SECONDS = 0.1
CANARY_SECONDS = 120.0
UNLOAD_SECONDS = 3.0  # from the last stream's end to a killed Triton: engines close their workers in this time
CLOSING = {"engine", "tokenizer"}  # models that have something to close; Triton ends the others one by one, 1.2 s each
LOGS = ROOT / ".run"


class Supervisor:
    """One serving session, from start to the last process gone."""

    def __init__(self, config: Config, engine: EngineInfo) -> None:
        self._config, self._engine = config, engine
        self._base = f"http://{reach(config.inner_host, config.http_port)}"
        self._triton: subprocess.Popen[bytes] | None = None
        self._deaths = Deaths()
        self._vitals: Vitals | None = None
        self._looked, self._log_start, self._signals = 0.0, 0, 0
        self._lame_duck = 0.0  # how long the gateway, once signalled, takes requests that routers still send
        self._in_canary = self._is_serving = False
        rundir.check_logs(LOGS)
        self._shm = shm.prefix()
        self._run_dir, self._lock = rundir.create(self._shm)
        self._leftovers = Leftovers(self._run_dir, self._shm)
        self._lifeline = Lifeline(self._run_dir)
        self._gateway = GatewayChild(config, self._run_dir, self._log("gateway"))
        self._grpc_proxy = GrpcProxy(config, self._run_dir, self._log("envoy")) if config.guard else None
        self._readiness = Readiness(self._gateway.readiness)
        self._readiness.say("starting")

    def run(self) -> None:
        """Serve until a signal, which may come while it starts. Raises ``LaunchError``."""
        signals.on_signals(self._on_signal)
        try:
            self._start_triton()
            self._start_gateway()
            if self._grpc_proxy:
                self._grpc_proxy.start()
            self._announce()
            self._watch()
        except LaunchError:
            if not self._signals:
                raise
        finally:
            self._clean()

    # --- start -----------------------------------------------------------------------------------------------------

    def _log(self, name: str) -> Path:
        return LOGS / f"{name}-{self._config.http_port}.log"

    def _start_triton(self) -> None:
        """Start Triton and wait until it generates. It is started again after a crash on the way, or where it hangs (a
        starved host can lose a stub's lock)."""
        self._launch_triton()
        watch = StartWatch()
        while not health.is_ready(self._base):
            self._give_up_if_signalled()
            pid = self._triton.pid if self._triton else 0
            why = watch.look(pid)
            if self._broken() or watch.has_lost_a_stub(pid):
                why = self._why() + self._oom.ran_out()
                if (self._exit_code() or 0) >= 0:
                    raise LaunchError(f"Triton did not start: {why} (log: {self._log('triton')})")
            if why:
                logs.say(f"starting again: {why}")
                self._await_turn(why)
                self._stop_dead_triton()
                self._launch_triton()
                watch = StartWatch()
            self._leftovers.look()
            self._turn()
        self._leftovers.look()
        self._in_canary = True
        problem = health.generates(self._base, CANARY_SECONDS)
        self._in_canary = False
        if problem:
            raise LaunchError(f"the server is up but cannot generate: {problem} (log: {self._log('triton')})")
        self._vitals = Vitals(self._run_dir, connectable(self._config.inner_host), self._config.http_port)
        self._looked = time.monotonic()
        self._readiness.say("")

    def _launch_triton(self) -> None:
        for file in self._run_dir.iterdir():
            if file.is_file() and file.name != session_dir.LOCK:
                file.unlink()
        command = triton.command(self._config, self._run_dir, self._shm)
        env = triton.environment(self._config, self._run_dir)
        with logs.open_private(self._log("triton"), "ab" if self._deaths else "wb") as log:
            self._log_start, self._oom = log.tell(), oom.OomWatch()
            self._readiness.launching()
            self._leftovers.starting()
            # SIGKILL: without its launcher nobody empties the engine first, and a Triton that got SIGTERM leaves its
            # open streams silent until their clients' time-outs. A broken connection they notice, and go on elsewhere.
            self._triton = child.start(command, env, log, ROOT, signal.SIGKILL)
        engine = self._engine
        logs.say(f"starting Triton on {engine.model.name} ({engine.runtime.name}, {engine.precision}) …")

    def _stop_dead_triton(self) -> None:
        if self._vitals:
            self._vitals.close()
            self._vitals = None
        if self._triton:
            child.stop(self._triton, 0)
            self._triton = None
        self._leftovers.remove()

    def _start_gateway(self) -> None:
        if not self._config.gateway_port:
            return
        self._gateway.start()
        while not health.answers(f"{self._gateway.url}/health/ready"):
            self._give_up_if_signalled()
            if self._broken():  # it waits for Triton, and the watch restarts that
                return
            if word := self._gateway.ended:
                raise LaunchError(f"the gateway did not start: {word}")
            self._turn()

    def _announce(self) -> None:
        self._is_serving = True
        logs.say(announcement.text(self._config, self._engine, self._log("triton")))

    # --- watch -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._signals:
            self._turn()
            if reason := self._dead_or_hung():
                self._restart(reason)

    def _turn(self) -> None:
        """One turn of every waiting loop: beat for the gateway, and watch the gateway and the gRPC proxy."""
        time.sleep(WATCH_SECONDS)
        orphans.reap([self._triton, self._gateway.process, self._grpc_proxy.process if self._grpc_proxy else None])
        self._gateway.beat()
        if self._is_serving:
            self._gateway.look()
            if self._grpc_proxy:
                self._grpc_proxy.look()

    def _dead_or_hung(self) -> str:
        """Why Triton must be started again. Keeps the readiness word of all gateway workers up to date."""
        if self._triton is None or self._vitals is None:
            return "it did not start"
        if self._broken():
            return self._why() + self._oom.ran_out()
        now = time.monotonic()
        self._vitals.look(now - self._looked)
        self._looked = now
        self._readiness.say(self._vitals.unready())
        return self._vitals.hung()

    def _restart(self, reason: str) -> None:
        self._readiness.restarting(reason)
        logs.say(f"the engine died: {reason} (log: {self._log('triton')})")
        if (self._run_dir / "dead").exists():  # its process lives for a moment, to tell its clients
            time.sleep(FLUSH_SECONDS)
        self._stop_dead_triton()
        try:
            self._await_turn(reason)
            logs.say("restarting Triton")
            self._start_triton()
        except LaunchError as error:
            if self._signals or self._has_died_too_often():
                raise
            logs.say(f"not yet: {error}")
            return
        logs.say("serving again")

    def _await_turn(self, why: str) -> None:
        """Count a death; from the fourth in a row on, wait before the next start, or give up if so asked."""
        pause = self._deaths.add(time.monotonic())
        if self._has_died_too_often():
            deaths = f"{len(self._deaths)} deaths in {WINDOW:.0f} s"
            raise LaunchError(f"{deaths}, giving up; the last: {why} (log: {self._log('triton')})")
        self._readiness.restarting(why, pause)
        if pause:
            logs.say(f"it dies again and again soon after its start: the next one is in {pause:.0f} s")
        until = time.monotonic() + pause
        while time.monotonic() < until:
            self._give_up_if_signalled()
            self._turn()

    def _has_died_too_often(self) -> bool:
        limit = self._config.max_restarts or (0 if self._is_serving else AT_ONCE)  # one that never served never will
        return bool(limit) and len(self._deaths) > limit

    def _broken(self) -> bool:
        """Triton or one of its model processes is gone. Triton itself would let their streams wait for ever."""
        if self._triton is None or self._triton.poll() is not None or (self._run_dir / "dead").exists():
            return True
        return bool(self._gone())

    def _exit_code(self) -> int | None:
        return self._triton.poll() if self._triton else None

    def _gone(self) -> list[str]:
        """The models of which a process has ended."""
        ended = []
        for path in sorted(self._run_dir.glob("*.pid")):
            with contextlib.suppress(OSError, ValueError):  # it is just being written
                if not child.is_alive(int(path.read_text())):
                    ended.append(path.stem.partition("-")[0])
        return list(dict.fromkeys(ended))

    def _why(self) -> str:
        """What is known for certain: the engine's own word, which process is gone, or why Triton does not load. Web
        clients read it too, so it names no path."""
        with contextlib.suppress(OSError):
            return (self._run_dir / "dead").read_text()
        code, log = self._exit_code(), self._log("triton")
        if self._vitals is None:  # it is still starting: its log says why it does not
            return logs.error_line(log, code, self._log_start)
        if code is not None:
            return f"tritonserver ended ({child.cause(code)})"
        return f"the {' and the '.join(self._gone())} process is gone"

    # --- end -------------------------------------------------------------------------------------------------------

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals == 1:
            self._lame_duck = self._config.lame_duck if number != signal.SIGINT and self._is_serving else 0.0
            routers = f"routers get {self._lame_duck} s to look away, then " if self._lame_duck else ""
            drains = f"\nstopping: {routers}open streams get {self._config.drain} s to end (again: stop at once)"
            logs.say(drains if self._is_serving else "")  # a starting server has no streams
        if self._in_canary:  # which may block for minutes without looking at ``_signals``
            self._in_canary = False
            raise LaunchError("stopped while starting")

    def _give_up_if_signalled(self) -> None:
        if self._signals:
            raise LaunchError("stopped while starting")

    def _clean(self) -> None:
        """The gateway drains first: it needs Triton for its open streams, and routers ask it whether we are ready."""
        self._readiness.say("draining")
        number = signal.SIGTERM if self._lame_duck else signal.SIGINT
        deadline = time.monotonic() + self._lame_duck + (self._config.drain if self._is_serving else 0)
        streams = OpenStreams(self._run_dir)

        def patient() -> bool:
            if self._is_serving:  # a starting server's only stream is its own
                streams.look(patient=self._signals < 2)
            return self._signals < 2

        self._gateway.stop(number, lambda process: await_gateway(process, deadline, patient, lambda: self._signals))
        if self._triton:
            left = drain(self._run_dir, deadline, patient, lambda: not self._broken())
            if self._is_serving:
                streams.close(left)
            self._stop(self._triton, time.monotonic() + UNLOAD_SECONDS)
        if self._grpc_proxy:
            self._grpc_proxy.stop()
        self._leftovers.remove()
        shutil.rmtree(self._run_dir, ignore_errors=True)
        self._lock.close()
        if self._signals:
            logs.say("stopped" if self._is_serving else "stopped while starting")

    def _stop(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        """SIGTERM, patience until ``CLOSING`` ended, ``deadline`` or a second signal, then SIGKILL to what is left."""
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        while process.poll() is None and time.monotonic() < deadline and self._signals < 2:
            if set(self._gone()) >= CLOSING:
                break
            time.sleep(0.05)
        child.stop(process, 0)
