"""What a server that has just started says about itself."""

from __future__ import annotations

from pathlib import Path

from contract.engine_dir import EngineInfo
from serving.launch.config import LOCAL, Config, reach
from serving.launch.engine import changed, note, outdated


def text(config: Config, engine: EngineInfo, log: Path) -> str:
    triton, metrics = (reach(config.inner_host, port) for port in (config.http_port, config.metrics_port))
    grpc = reach(config.triton_host, config.grpc_port)
    if config.guard and config.guard.certificate:
        grpc = f"grpcs://{grpc}"
    lines = [
        "",
        f"  Triton HTTP   http://{triton}    gRPC {grpc}    metrics http://{metrics}/metrics",
    ]
    if config.gateway_port:
        gateway = f"http://{reach(config.host, config.gateway_port)}"
        lines.append(f"  OpenAI API    {gateway}/v1    chat page {gateway}/")
    body = '{"text_input": "Hello", "max_tokens": 16}'
    lines += ["", f"  curl -X POST http://{triton}/v2/models/qwen/generate -d '{body}'"]
    for about in filter(None, (note(engine), changed(engine), outdated(engine))):
        lines += ["", f"  note: {about}"]
    if warning := _warning(config):
        lines += ["", f"  warning: TRITON_HOST={config.triton_host} {warning}"]
    return "\n".join([*lines, "", f"  logs: {log}    Ctrl-C drains and stops"])


def _warning(config: Config) -> str:
    if config.triton_host in LOCAL:
        return ""
    if config.guard is None:
        return (
            "opens Triton, which asks nobody for a key and has published holes (SECURITY.md), to the network; set "
            "TRITON_KEY_FILE and TRITON_TLS_CERT, or publish only the gateway"
        )
    if not config.guard.certificate:
        return "sends API keys and prompts over the network as plain text; set TRITON_TLS_CERT and TRITON_TLS_KEY"
    return ""
