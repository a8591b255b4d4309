"""Replicas behind smg (HTTP) and Envoy (gRPC), one address each: ``make cluster REPLICAS=3``.

usage: python -m deploy.cluster --replicas N|URL,URL [OPTION ...] [-- options of python -m serving]

SIGHUP (``make cluster-roll``) replaces the replicas one by one, SIGINT and SIGTERM drain all.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import urllib.request
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from contract.arguments import Arguments
from contract.authority import bracketed
from deploy.envoy import CHECK_SECONDS, configuration
from deploy.processes import DRAIN_SECONDS, ROOT, Router, ready, say, stop
from deploy.replicas import LOOK_SECONDS, Front, Home, Replica, gpus, replace
from serving.host.ports import free_ports
from serving.launch import config, engine
from serving.launch.envoy import GUARD_FLAGS, Guard

ROUTERS = ROOT / ".venv-router/bin"


def aliases(url: str) -> list[str]:
    """smg's ``--model-alias`` for every model name but the first: it registers only that one."""
    try:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=5) as answer:
            first, *others = [model["id"] for model in json.load(answer)["data"]]
    except (OSError, ValueError, KeyError) as problem:
        say(f"{url}/v1/models: {problem}; only the first model name can be used over HTTP")
        return []
    return [text for name in others for text in ("--model-alias", f"{name}={first}")]


def smg(urls: list[str], host: str, port: int, metrics_port: int, policy: str) -> list[str]:
    return [
        str(ROUTERS / "smg"), "launch", "--host", host, "--port", str(port), "--policy", policy,
        "--disable-tokenizer-autoload", "--health-check-endpoint", "/health/ready", "--health-check-interval-secs",
        str(CHECK_SECONDS), "--health-failure-threshold", "1", "--health-success-threshold", "1",
        "--shutdown-grace-period-secs", str(DRAIN_SECONDS),
        "--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics_port),
        "--disable-circuit-breaker",  # it would keep a replaced replica out long after its health check passes
        *aliases(urls[0]), "--worker-urls", *urls,
    ]  # fmt: skip


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Arguments(prog="python -m deploy.cluster", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--replicas", default="2", help="how many to start here, or gateway URLs separated by commas")
    add("--host", default="127.0.0.1", help="address of both routers (default: 127.0.0.1)")
    add("--port", type=int, default=8080, help="HTTP, OpenAI's API (default: 8080)")
    add("--grpc-port", type=int, default=8001, help="gRPC (default: 8001)")
    add(
        "--replica-grpc-port",
        default="8001",
        help="gRPC port of replicas given as URLs, or one for each (default: 8001)",
    )
    add("--policy", default="cache_aware", help="how smg chooses a replica (default: cache_aware)")
    add("--run", type=Path, default=ROOT / ".run/cluster", help="logs and process id (default: .run/cluster)")
    for flag, what in GUARD_FLAGS.items():
        add(flag, default="", metavar="FILE", help=what)
    add("serving", nargs="*", help="after --: options of python -m serving")
    chosen = parser.parse_args(arguments)
    try:
        chosen.guard = Guard.of_arguments(chosen)
    except ValueError as problem:
        parser.error(str(problem))
    urls = [url.strip().rstrip("/") for url in chosen.replicas.split(",")]
    count = int(chosen.replicas) if chosen.replicas.isdecimal() else 0
    if not count and not all(urlsplit(url).scheme == "http" and urlsplit(url).hostname for url in urls):
        parser.error(f"REPLICAS={chosen.replicas!r}: give a number from 1, or URLs such as http://a:8080,http://b:8080")
    ports = [int(port) if port.isdecimal() else 0 for port in chosen.replica_grpc_port.split(",")]
    if not count and (len(ports) not in (1, len(urls)) or not all(0 < port < 65536 for port in ports)):
        parser.error(f"--replica-grpc-port {chosen.replica_grpc_port!r}: give one port for all, or one for each URL")
    chosen.serving = [f"--lame-duck={LOOK_SECONDS}", *chosen.serving]
    chosen.count, chosen.urls = count, [] if count else urls
    chosen.grpc_ports = ports * len(urls) if len(ports) == 1 else ports
    return chosen


class Cluster:
    def __init__(self, chosen: argparse.Namespace) -> None:
        self._chosen = chosen
        self._run: Path = chosen.run
        self._run.mkdir(parents=True, exist_ok=True)
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

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)
        signal.signal(signal.SIGHUP, self._ask_for_roll)
        try:
            self._start()
            self._watch()
        except KeyboardInterrupt:
            say("draining; open answers are finished (again: stop at once)")
        except (RuntimeError, config.LaunchError) as problem:
            say(str(problem))
            return 1
        finally:
            signal.signal(signal.SIGINT, self._hurry)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            # Replicas first: the routers carry the open answers to their end. All go, so none is a lame duck (SIGINT).
            processes = [replica.process for replica in self._replicas] + [front.process for front in self._fronts]
            stop([process for process in processes if process], signal.SIGINT)
            stop([router.process for router in self._routers if router.process])
            (self._run / "pid").unlink(missing_ok=True)
        return 0

    def _end(self, *_: int | FrameType | None) -> None:
        raise KeyboardInterrupt

    def _hurry(self, *_: int | FrameType | None) -> None:
        for replica in self._replicas:
            if replica.process:
                replica.process.terminate()  # the second time: it stops at once
        for router in (*self._fronts, *self._routers):
            router.kill()

    def _ask_for_roll(self, *_: int | FrameType | None) -> None:
        self._roll = True

    def _start(self) -> None:
        chosen = self._chosen
        serving = config.parse(chosen.serving)
        if self._replicas:
            serving, _ = engine.prepare(serving)  # once, before all start
        for replica in self._replicas:
            replica.start()
        for replica in self._replicas:
            replica.wait()
        if self._replicas or "--engine" in chosen.serving:
            self._start_fronts(serving)
        self._start_routers()
        (self._run / "pid").write_text(str(os.getpid()))
        if chosen.host not in config.LOCAL and chosen.guard.is_open:
            say(f"warning: HOST={chosen.host} opens gRPC to everybody; set TRITON_KEY_FILE or TRITON_TLS_CLIENT_CA")
        say(f"HTTP http://{chosen.host}:{chosen.port}/v1   gRPC {chosen.host}:{chosen.grpc_port}   Ctrl-C drains all")

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
        self._routers = [
            Router(smg(urls, chosen.host, chosen.port, self._metrics, chosen.policy), self._run / "smg.log"),
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
            if self._roll:
                self._roll = False
                if len(self._replicas) == 1:
                    say("a roll needs two replicas or more: one that drains answers nobody; use REPLICAS=2")
                    continue
                for replica in self._replicas:
                    say(f"replica {replica.number} drains")
                    replace(replica, self._fronts[replica.number], self._watch_routers)
                    time.sleep(LOOK_SECONDS)  # the routers must know this one before the next one drains
                say("all replicas replaced" if self._replicas else "replicas given as URLs are replaced where they run")
            for replica in self._replicas:
                if replica.process and replica.process.poll() is not None:
                    say(f"replica {replica.number} ended with {replica.process.returncode}; it is started again")
                    replica.start()
            self._watch_routers()
            for front in self._fronts:
                if front.ended():
                    front.restart()
            time.sleep(0.5)

    def _watch_routers(self) -> None:
        for router in self._routers:
            if router.ended():
                router.restart()


if __name__ == "__main__":
    os.umask(0o077)  # Envoy's configuration holds API keys, logs quote requests
    sys.exit(Cluster(parse(sys.argv[1:])).run())
