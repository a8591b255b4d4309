"""Everything an operator can configure, read once from the environment. All limits are here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class GatewaySettingsError(Exception):
    """One line: the variable, its value and what it accepts."""


def _var(name: str, default: Any, about: str) -> Any:
    return field(default=default, metadata={"env": name, "about": about})


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One process's configuration. ``docs/gateway.md`` lists it from here (checked by a test)."""

    host: str = _var(
        "HOST", "127.0.0.1", "address to listen on; anything but localhost exposes the gateway to the network"
    )
    port: int = _var("GATEWAY_PORT", 8080, "TCP port; 0 picks a free one")
    workers: int = _var("GATEWAY_WORKERS", 0, "processes that share the port; 0: one per core, four at most")
    triton_grpc: str = _var("TRITON_GRPC", "127.0.0.1:8001", "Triton's gRPC address; `grpcs://host:port` speaks TLS")
    peers: str = _var(
        "GATEWAY_PEERS", "", "gRPC addresses of other Tritons with the same engine (comma-separated): they go on with "
        "the answers of one that died"
    )  # fmt: skip
    triton_key_file: str = _var(
        "GATEWAY_TRITON_KEY_FILE", "", "file with the API key that these Tritons ask for; the first one in it is sent"
    )
    triton_ca: str = _var(
        "GATEWAY_TRITON_CA", "", "who signed their certificates (PEM); empty: an authority that this system knows"
    )
    triton_certificate: str = _var("GATEWAY_TRITON_CERT", "", "the gateway's own certificate, for mutual TLS with them")
    triton_certificate_key: str = _var("GATEWAY_TRITON_CERT_KEY", "", "its key")
    triton_metrics: str = _var("TRITON_METRICS", "http://127.0.0.1:8002/metrics", "URL of Triton's metrics")
    engine_dir: str = _var("ENGINE_DIR", "", "engine directory: tokenizer, model name, context length")
    model_names: str = _var(
        "GATEWAY_MODEL_NAMES", "", "additional names for the model besides `qwen` (comma-separated)"
    )
    api_keys: str = _var(
        "GATEWAY_API_KEYS", "", "accepted API keys, comma-separated; if this and the file are empty, no key is needed"
    )
    api_keys_file: str = _var(
        "GATEWAY_API_KEYS_FILE",
        "",
        "file of lines `NAME KEY` or `NAME sha256:HEX`, optionally followed by a tokens-per-minute limit",
    )
    open_models: int = _var(
        "GATEWAY_OPEN_MODELS", 0,
        "1: `/v1/models` needs no key: smg learns the model's name there; `make cluster` sets it for its fronts",
    )  # fmt: skip
    tokens_per_minute: int = _var(
        "GATEWAY_TOKENS_PER_MINUTE", 0, "prompt and output tokens per key per minute; 0: no limit"
    )
    cors_origins: str = _var(
        "GATEWAY_CORS_ORIGINS",
        "",
        "origins whose pages may call this gateway (comma-separated); empty: its own page only",
    )
    max_body_bytes: int = _var(
        "GATEWAY_MAX_BODY_BYTES", 8 * 2**20, "larger request bodies get 413; a 131,072-token prompt is under 1 MiB"
    )
    max_open: int = _var(
        "GATEWAY_MAX_OPEN_REQUESTS", 2048, "requests being answered at once, all workers together; more get 429"
    )
    max_connections: int = _var(
        "GATEWAY_MAX_CONNECTIONS", 8192, "all workers together; past it those without a whole request give way"
    )
    max_prompts: int = _var("GATEWAY_MAX_PROMPTS", 256, "prompts in one /v1/completions request")
    responses_store: int = _var(
        "GATEWAY_RESPONSES_STORE", 0,
        "bytes for responses that callers may come back to (`previous_response_id`, `item_reference`); 0: stateless",
    )  # fmt: skip
    responses_seconds: float = _var("GATEWAY_RESPONSES_SECONDS", 3600.0, "how long such a response is kept")
    lame_duck_seconds: float = _var(
        "GATEWAY_LAME_DUCK_SECONDS", 0.0,
        "after SIGTERM requests are taken for this long while `/health/ready` is 503, so that routers look away first",
    )  # fmt: skip
    drain_seconds: float = _var("GATEWAY_DRAIN_SECONDS", 10.0, "time open streams then have to finish")
    keepalive_seconds: float = _var(
        "GATEWAY_KEEPALIVE_SECONDS", 10.0, "a stream silent for this long gets a `: keep-alive` comment"
    )
    first_token_seconds: float = _var(
        "GATEWAY_FIRST_TOKEN_SECONDS",
        300.0,
        "limit on queueing (then 429) plus prefill (504), and on the restart of a dead engine",
    )
    ttft_limit: float = _var(
        "GATEWAY_TTFT_LIMIT",
        0.0,
        "seconds; requests whose first token is predicted to come later get 429; 0: no limit",
    )
    stall_seconds: float = _var(
        "GATEWAY_STALL_SECONDS", 60.0, "limit on the engine's silence in the middle of an answer; then an error"
    )
    write_seconds: float = _var(
        "GATEWAY_WRITE_SECONDS", 30.0, "a client that reads nothing for this long loses its stream"
    )
    request_seconds: float = _var("GATEWAY_REQUEST_SECONDS", 3600.0, "limit on the whole request")
    log_level: str = _var("GATEWAY_LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR; prompts are never logged")
    readiness_file: str = _var(
        "GATEWAY_READINESS_FILE", "", "set by the launcher: why requests cannot be answered; an empty file: they can"
    )
    run_dir: str = _var("GATEWAY_RUN_DIR", "", "set by the supervisor for its workers")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> GatewaySettings:
        """Raises ``GatewaySettingsError``."""
        given = os.environ if environment is None else environment
        values: dict[str, Any] = {}
        for item in cls.__dataclass_fields__.values():
            name, default = item.metadata["env"], item.default
            if text := given.get(name, "").strip():
                values[item.name] = _typed(name, text, type(default))
        settings = cls(**values)
        settings._check()
        return settings

    def _check(self) -> None:
        if not 0 <= self.port <= 65535:
            raise GatewaySettingsError(f"GATEWAY_PORT={self.port}: give a port from 0 to 65535")
        if self.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise GatewaySettingsError(f"GATEWAY_LOG_LEVEL={self.log_level}: give DEBUG, INFO, WARNING or ERROR")
        for item in self.__dataclass_fields__.values():
            value = getattr(self, item.name)
            if isinstance(value, (int, float)) and not value >= 0:  # nor NaN
                raise GatewaySettingsError(f"{item.metadata['env']}={value}: give a number that is not negative")

    @property
    def processes(self) -> int:
        return self.workers or min(4, len(os.sched_getaffinity(0)))

    @property
    def tritons(self) -> tuple[str, ...]:
        return (self.triton_grpc, *_list(self.peers))

    @property
    def names(self) -> tuple[str, ...]:
        return _list(self.model_names)

    @property
    def origins(self) -> tuple[str, ...]:
        return _list(self.cors_origins)

    @property
    def engine_path(self) -> Path | None:
        return Path(self.engine_dir) if self.engine_dir else None


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _typed(name: str, text: str, kind: type) -> Any:
    if kind is str:
        return text
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise GatewaySettingsError(f"{name}={text}: give {wanted}") from None
