"""The tritonserver command line and its environment; the sole place that knows Triton's flags.

Sources: https://github.com/triton-inference-server/server/blob/r26.07/docs/customization_guide/deploy.md and
`tritonserver --help` of 2.51.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path

from contract.authority import bracketed
from contract.paths import ROOT
from serving import tracing
from serving.detokenizer import scale
from serving.launch.config import Config, LaunchError
from serving.launch.rundir import plain

OTHERS = (
    "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "GATEWAY_", "TRITON_HOST", "TRITON_KEY", "TRITON_TLS", "QWEN_",
    "OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
)  # fmt: skip
REPOSITORY = ROOT / "model_repository"
DETOKENIZER, CONFIG = "detokenizer", "config.pbtxt"
IN_CONTAINER = Path("/opt/tritonserver/bin/tritonserver")
# Reachable without the key, these let a client read or replace what others use (CVE-2025-23319 and its kin).
RESTRICTED = "model-repository,shared-memory,trace,logging"
# Routers and clients ping every few seconds to notice a host that is gone. By default gRPC's server takes three pings
# within five minutes for an attack and closes the connection with all its streams.
PINGS = (
    "--grpc-http2-min-recv-ping-interval-without-data=1000",  # milliseconds
    "--grpc-keepalive-permit-without-calls=1",
)
# The caller's trace, as a parameter of the request. Triton 2.51 has the same flag for HTTP, which /generate ignores.
HEADERS = (f"--grpc-header-forward-pattern={tracing.HEADER}",)


def binary() -> tuple[Path, Path | None]:
    """tritonserver and its backends: $TRITON and $TRITON_BACKENDS, the NVIDIA container's, or nvidia-pytriton's."""
    if os.environ.get("TRITON"):
        backends = os.environ.get("TRITON_BACKENDS")
        return Path(os.environ["TRITON"]), Path(backends) if backends else None
    if IN_CONTAINER.exists():
        return IN_CONTAINER, None
    for site in sys.path:
        home = Path(site) / "pytriton/tritonserver"
        if (home / "bin/tritonserver").exists():
            return home / "bin/tritonserver", home / "backends"
    raise LaunchError("no tritonserver here: run `make setup`, or set TRITON to its path")


def command(config: Config, run_dir: Path, shm_prefix: str) -> list[str]:
    """Puts links into ``run_dir`` to whatever lies under a path that Triton cannot handle."""
    server, backends = binary()
    backends = backends and plain(backends, run_dir, "backends")
    key = secrets.token_hex(16)
    return [
        str(server),
        f"--model-repository={_repository(run_dir)}",
        *([f"--backend-directory={backends}"] if backends else []),
        "--disable-auto-complete-config",
        "--model-control-mode=none",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        # Threads that take the responses of one model process. They come one at a time: with the default of 32 every
        # response wakes another, cold thread, and a third of the chunks per second are lost (docs/decisions.md).
        "--backend-config=python,thread-pool-size=1",
        f"--http-address={_evhtp(config.inner_host)}",
        f"--http-port={config.http_port}",
        f"--http-restricted-api={RESTRICTED}:key={key}",
        f"--grpc-address={bracketed(config.inner_host)}",
        f"--grpc-port={config.inner_grpc_port}",
        f"--grpc-restricted-protocol={RESTRICTED}:key={key}",
        *PINGS,
        *(HEADERS if tracing.wanted() else ()),
        f"--metrics-address={_evhtp(config.inner_host)}",
        f"--metrics-port={config.metrics_port}",
        "--metrics-interval-ms=500",
        f"--exit-timeout-secs={config.drain}",
        "--log-warning=true",
    ]


def _repository(run_dir: Path, cores: int = len(os.sched_getaffinity(0))) -> Path:
    """The model repository with as many detokenizer processes as ``cores`` can feed: links, and a config of its own."""
    source, copy = plain(REPOSITORY, run_dir, "source"), run_dir / "model_repository"
    for model in sorted(path.name for path in REPOSITORY.iterdir()):
        (copy / model).mkdir(parents=True, exist_ok=True)
        for name in sorted(path.name for path in (REPOSITORY / model).iterdir()):
            link = copy / model / name
            if not link.is_symlink() and not link.exists():
                link.symlink_to(source / model / name)
    config = copy / DETOKENIZER / CONFIG
    config.unlink()
    config.write_text(
        re.sub(
            r"count: \d+", f"count: {scale.processes(cores)}", (REPOSITORY / DETOKENIZER / CONFIG).read_text("utf-8")
        ),
        encoding="utf-8",
    )
    return copy


def _evhtp(host: str) -> str:
    """The address as Triton's HTTP library expects it."""
    return f"ipv6:{host}" if ":" in host else host


def environment(config: Config, run_dir: Path) -> dict[str, str]:
    """Triton's environment. Its stub embeds Python, which it finds through PATH and libpython's folder.

    Secrets of others stay out: the keys of the gateway's clients, and the token that fetched the checkpoint."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(OTHERS)}
    libraries = [env["LD_LIBRARY_PATH"]] if env.get("LD_LIBRARY_PATH") else []
    pointer = Path(sys.prefix) / "libpython.path"
    if pointer.is_file() and pointer.read_text():
        libraries.insert(0, pointer.read_text())
    python = Path(sys.executable)
    if python.is_relative_to(sys.prefix):
        python = plain(Path(sys.prefix), run_dir, "python") / python.relative_to(sys.prefix)
    return env | config.environment | {
        "PATH": f"{python.parent}:{env.get('PATH', '/usr/bin:/bin')}",
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PYTHON_EXECUTABLE": str(python),
        "PYTHONUNBUFFERED": "1",
        "ENGINE_DIR": str(plain(config.engine, run_dir, "engine")),
        "RUN_DIR": str(run_dir),
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
