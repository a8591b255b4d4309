"""The gateway's environment: where Triton listens, what is served, who listens where."""

from __future__ import annotations

import os
from pathlib import Path

from serving.launch.config import Config, connectable


def environment(config: Config, run_dir: Path, readiness: Path) -> dict[str, str]:
    """``readiness``: the file with one word for all workers, see ``Supervisor``."""
    host = connectable(config.triton_host)
    return dict(os.environ) | {
        "ENGINE_DIR": str(config.engine),
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_OFFLINE": "1",
        "GATEWAY_PORT": str(config.gateway_port),
        "HOST": config.host,
        "RUN_DIR": str(run_dir),
        "GATEWAY_READINESS_FILE": str(readiness),
        "GATEWAY_DRAIN_SECONDS": str(config.drain),
        "TRITON_GRPC": f"{host}:{config.grpc_port}",
        "TRITON_METRICS": f"http://{host}:{config.metrics_port}/metrics",
    }
