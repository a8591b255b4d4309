"""Replicas behind smg (HTTP) and Envoy (gRPC), one address each: ``make cluster REPLICAS=3``.

usage: python -m deploy.cluster --replicas N|URL,URL [OPTION ...] [-- options of python -m serving]

SIGHUP (``make cluster-roll``) replaces the replicas one by one, SIGINT, SIGTERM and a terminal that closes drain all.
"""

from __future__ import annotations

import contract.program

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from contract import standard_streams
from contract.authority import bracketed
from contract.direct_http import DIRECT
from contract.paths import ROOT
from deploy import running
from deploy.arguments import check_ports, parse
from deploy.envoy import CHECK_SECONDS, configuration
from deploy.processes import DRAIN_SECONDS, Router, ready, say, stop
from deploy.replicas import LOOK_SECONDS, Front, Home, Replica, gpus, replace
from serving.host import orphans
from serving.host.ports import free_ports
from serving.host.signals import Terminal
from serving.launch import config, engine

ROUTERS = ROOT / ".venv-router/bin"


def aliases(urls: list[str]) -> list[str]:
    """smg's ``--model-alias`` for every model name but the first: it registers only that one."""
    names: list[str] = []
    problem: Exception | None = None
    for url in urls:  # one may be down
        try:
            with DIRECT.open(f"{url}/v1/models", timeout=5) as answer:
                names = [model["id"] for model in json.load(answer)["data"]]
            break
        except (OSError, ValueError, KeyError) as error:
            problem = error
    if not names:
        lost, remedy = "only the first model name can be used over HTTP", ""
        if getattr(problem, "code", 0) == 401:  # smg asks without a key too
            lost, remedy = "no model can be used over HTTP", ": set GATEWAY_OPEN_MODELS=1 where the replicas run"
        say(f"{urls[0]}/v1/models: {problem}; {lost}{remedy}")
        return []
    first, *others = names
    return [text for name in others for text in ("--model-alias", f"{name}={first}")]


def smg(urls: list[str], host: str, port: int, metrics_port: int, policy: str) -> list[str]:
    return [
        str(ROUTERS / "smg"), "launch", "--host", host, "--port", str(port), "--policy", policy,
        "--disable-tokenizer-autoload", "--health-check-endpoint", "/health/ready", "--health-check-interval-secs",
        str(CHECK_SECONDS), "--health-failure-threshold", "1", "--health-success-threshold", "1",
        "--shutdown-grace-period-secs", str(DRAIN_SECONDS),
        "--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics_port),
        "--disable-circuit-breaker",  # it would keep a replaced replica out long after its health check passes
        *aliases(urls), "--worker-urls", *urls,
    ]  # fmt: skip


class Cluster:
    def __init__(self, chosen: argparse.Namespace) -> None:
        self._chosen = chosen
        self._run: Path = chosen.run
        replicas = chosen.count or len(chosen.urls)
        ports, cards = free_ports(4 * chosen.count + replicas + 2), gpus()
        self._admin, self._metrics = ports[:2]
        self._front_ports, ports = ports[2 : 2 + replicas], ports[2 + replicas :]
        self._replicas = []
        for i in range(chosen.count):
            gpu = i % cards if cards else None
            own = ports[4 * i : 4 * i + 4]
            self._replicas.append(Replica(i, own, chosen.serving, gpu, self._run / f"replica{i}.log"))
        self._fronts: list[Front] = []
        self._routers: list[Router] = []
        self._roll = False
        self._terminal = Terminal()
        self._outlives_terminal = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # nohup

    def run(self) -> int:
        """Run until a signal (returns 0), or until something fails that no restart mends (1)."""
        try:
            self._run.mkdir(parents=True, exist_ok=True)
            claimed = running.claim(self._run)
        except OSError as error:
            remedy = "make it writable and make room, or use `python -m deploy.cluster --run DIRECTORY`"
            say(f"{self._run}, where logs go, cannot be written ({error.strerror}): {remedy}")
            return 1
        if claimed is None:
            say(f"a cluster runs in {self._run} already: stop it, or use `python -m deploy.cluster --run DIRECTORY`")
            return 1
        with claimed:
            return self._serve()

    def _serve(self) -> int:
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)
        signal.signal(signal.SIGHUP, self._hung_up)
        try:
            if not self._outlives_terminal:
                self._terminal.when_closed(signal.SIGTERM)
            self._start()
            self._watch()
        except KeyboardInterrupt:
            drains = "draining; open answers are finished (again: stop at once)"
            say(drains if self._routers else "stopped while starting")
        except (RuntimeError, config.LaunchError) as problem:
            say(str(problem))
            return 1
        except OSError as error:  # a disk that became full, no process more: its own words are the clearest
            say(f"{error.filename or self._run}: {error.strerror or error}")
            return 1
        finally:
            self._is_ending()
            # Replicas first: the routers carry the open answers to their end. All go, so none is a lame duck (SIGINT).
            processes = [replica.process for replica in self._replicas] + [front.process for front in self._fronts]
            stop([process for process in processes if process], signal.SIGINT)
            stop([router.process for router in self._routers if router.process])
        return 0

    def _end(self, *_: int | FrameType | None) -> None:
        self._is_ending()  # first: another signal may follow at once
        raise KeyboardInterrupt

    def _is_ending(self) -> None:
        signal.signal(signal.SIGINT, self._hurry)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _hurry(self, *_: int | FrameType | None) -> None:
        for replica in self._replicas:
            if replica.process:
                replica.process.terminate()  # the second time: it stops at once
        for router in (*self._fronts, *self._routers):
            router.kill()

    def _hung_up(self, *_: int | FrameType | None) -> None:
        """Either somebody asks for a roll, or a shell says that its terminal is closed."""
        if running.is_asked_to_roll(self._run) or not self._terminal.is_closed():
            self._roll = True
        elif not self._outlives_terminal:
            os.kill(os.getpid(), signal.SIGTERM)

    def _start(self) -> None:
        chosen = self._chosen
        check_ports(chosen)
        serving = config.parse(chosen.serving)
        if self._replicas:
            serving, _ = engine.prepare(serving)  # once, before all start
            say(f"starting {len(self._replicas)} of {serving.engine}; logs: {self._run}")
        self._look_at_given()
        for replica in self._replicas:
            replica.start()
        for replica in self._replicas:
            replica.wait()
        if self._replicas or "--engine" in chosen.serving:
            self._start_fronts(serving)
        self._start_routers()
        if chosen.host not in config.LOCAL and chosen.guard.is_open:
            say(f"warning: HOST={chosen.host} opens gRPC to everybody; set TRITON_KEY_FILE or TRITON_TLS_CLIENT_CA")
        say(f"HTTP http://{chosen.host}:{chosen.port}/v1   gRPC {chosen.host}:{chosen.grpc_port}   Ctrl-C drains all")

    def _look_at_given(self) -> None:
        """Raises ``RuntimeError`` when no replica that was given as a URL is ready."""
        urls = self._chosen.urls
        down = [url for url in urls if not ready(f"{url}/health/ready")]
        if urls and down == urls:
            raise RuntimeError(f"REPLICAS: {', '.join(down)}: no /health/ready says 200; start the replicas first")
        for url in down:
            say(f"warning: {url}/health/ready does not say 200: it gets no requests until it does")

    def _pairs(self) -> list[tuple[str, int]]:
        """URL of the gateway and gRPC port of each replica."""
        local = [(replica.url, replica.ports[1]) for replica in self._replicas]
        return local or list(zip(self._chosen.urls, self._chosen.grpc_ports, strict=True))

    def _start_fronts(self, serving: config.Config) -> None:
        homes = [Home(f"127.0.0.1:{r.ports[1]}", f"http://127.0.0.1:{r.ports[3]}/metrics") for r in self._replicas]
        homes = homes or [
            Home(f"{bracketed(urlsplit(url).hostname or '')}:{port}", f"{url}/metrics") for url, port in self._pairs()
        ]
        self._fronts = [Front.of(i, homes, port, serving, self._run) for i, port in enumerate(self._front_ports)]
        for front in self._fronts:
            front.start()
        for front in self._fronts:
            front.wait()

    def _start_routers(self) -> None:
        chosen, pairs = self._chosen, self._pairs()
        (self._run / "envoy.json").unlink(missing_ok=True)  # one from before may be readable by others
        (self._run / "envoy.json").write_text(
            json.dumps(configuration(pairs, chosen.host, chosen.grpc_port, self._admin, chosen.guard), indent=1)
        )
        urls = [front.url for front in self._fronts] or [url for url, _ in pairs]
        no_proxy = {name: "" for name in os.environ if name.lower().endswith("_proxy")}  # smg would use it for replicas
        self._routers = [
            Router(smg(urls, chosen.host, chosen.port, self._metrics, chosen.policy), self._run / "smg.log", no_proxy),
            Router([str(ROUTERS / "envoy"), "-c", str(self._run / "envoy.json"), "--disable-hot-restart",
                   "--drain-time-s", str(DRAIN_SECONDS)], self._run / "envoy.log"),
        ]  # fmt: skip
        for router in self._routers:
            router.start()
        begin = time.monotonic()
        local = "127.0.0.1" if chosen.host == "0.0.0.0" else chosen.host
        while not (ready(f"http://{local}:{chosen.port}/readiness") and ready(f"http://127.0.0.1:{self._admin}/ready")):
            if any(router.ended() for router in self._routers) or time.monotonic() - begin > 60:
                raise RuntimeError(f"a router did not start; see {self._run}/smg.log and {self._run}/envoy.log")
            time.sleep(0.1)

    def _watch(self) -> None:
        while True:
            servers = [one.process for one in self._replicas] + [one.process for one in self._fronts]
            orphans.reap(servers + [router.process for router in self._routers])
            if self._roll:
                self._roll = False
                self._replace_all()
            for replica in self._replicas:
                replica.look()
            self._watch_routers()
            for front in self._fronts:
                if front.ended():
                    front.restart()
            time.sleep(0.5)

    def _replace_all(self) -> None:
        """Replace the replicas one by one; one that does not come back ends the roll."""
        if not self._replicas:
            say("replicas given as URLs are replaced where they run")
            return
        if len(self._replicas) == 1:
            say("a roll needs two replicas or more: one that drains answers nobody; use REPLICAS=2")
            return
        for replica in self._replicas:
            say(f"replica {replica.number} drains")
            try:
                replace(replica, self._fronts[replica.number], self._watch_routers)
            except RuntimeError as problem:
                say(f"{problem}; the roll stops here, and the other replicas stay as they are")
                return
            time.sleep(LOOK_SECONDS)  # the routers must know this one before the next one drains
        say("all replicas replaced")

    def _watch_routers(self) -> None:
        for router in self._routers:
            if router.ended():
                router.restart()


def main(chosen: argparse.Namespace) -> int:
    if not chosen.roll:
        return Cluster(chosen).run()
    try:
        pid = running.roll(chosen.run)
    except PermissionError as error:
        say(f"{chosen.run}: the cluster there is another user's ({error.strerror}); roll it as that user")
        return 1
    say(
        f"asked process {pid} to roll; it says in its own terminal how far it is"
        if pid
        else f"none runs in {chosen.run}: start one with `make cluster`, or name its --run directory in ARGS="
    )
    return 0 if pid else 1


if __name__ == "__main__":
    standard_streams.unattended()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.umask(0o077)  # Envoy's configuration holds API keys, logs quote requests
    sys.exit(main(parse(sys.argv[1:])))
