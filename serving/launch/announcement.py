"""What a server that has just started says about itself."""

from __future__ import annotations

from pathlib import Path

from contract.engine_dir import EngineInfo
from serving.launch.config import LOCAL, Config, connectable
from serving.launch.engine import note


def text(config: Config, engine: EngineInfo, log: Path) -> str:
    host = connectable(config.triton_host)
    triton = f"http://{host}:{config.http_port}"
    lines = [
        "",
        f"  Triton HTTP   {triton}    gRPC {host}:{config.grpc_port}    metrics http://{host}:{config.metrics_port}/metrics",
    ]
    if config.gateway_port:
        gateway = f"http://{connectable(config.host)}:{config.gateway_port}"
        lines.append(f"  OpenAI API    {gateway}/v1    chat page {gateway}/")
    body = '{"text_input": "Hello", "max_tokens": 16}'
    lines += ["", f"  curl -X POST {triton}/v2/models/qwen/generate -d '{body}'"]
    if about := note(engine):
        lines += ["", f"  note: {about}"]
    if config.triton_host not in LOCAL:
        lines += [
            "",
            f"  warning: TRITON_HOST={config.triton_host} opens Triton, which asks nobody for a key and has published "
            "holes (SECURITY.md), to the network; publish only the gateway",
        ]
    return "\n".join([*lines, "", f"  logs: {log}    Ctrl-C drains and stops"])
