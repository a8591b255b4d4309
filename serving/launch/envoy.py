"""Envoy's configuration as the public gRPC proxy: who is let in, what passes, what is refused. Pure.

Why Envoy and not Triton's own TLS and restricted protocols: docs/decisions.md. Fields:
https://www.envoyproxy.io/docs/envoy/v1.35.0/api-v3/api
"""

from __future__ import annotations

import argparse
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.credentials import reason
from contract import key_file

TYPES = "type.googleapis.com/envoy.extensions"
LIMIT = 65_536  # requests and connections in all; Envoy's own limit of 1,024 refuses the rest
# A host that is gone sends no reset: its streams are broken off when a ping stays unanswered; clients go on elsewhere.
PINGS = {"interval": "2s", "timeout": "5s"}
CONNECTIONS = 8192  # clients' connections; memory and files are bounded by them
BUFFER = 262_144  # bytes of a connection that wait in Envoy; then flow control holds the sender back
HANDSHAKE, HEADERS, IDLE = "10s", "10s", "300s"  # how long a connection may take to say something
# Of KServe's service what clients need. The rest manages models, shared memory, traces and logs.
METHODS = r"/inference\.GRPCInferenceService/(Server|Model)[A-Za-z]+|/grpc\.health\.v1\.Health/[A-Za-z]+"
GUARD_FLAGS = {
    "--triton-key-file": "file of API keys (lines KEY or NAME KEY), one of which gRPC clients must send",
    "--triton-tls-cert": "certificate chain (PEM): gRPC then speaks TLS",
    "--triton-tls-key": "private key of that certificate (PEM)",
    "--triton-tls-client-ca": "CA (PEM) that must have signed the certificates of gRPC clients",
}
COMPRESSED = "grpc-encoding: compressed requests are not taken (a small one may unpack to gigabytes); send identity"
OTHER_METHOD = "this method is not offered here; inference, metadata and health are"
NO_KEY = "the API key is missing or unknown; send the metadata `authorization: Bearer KEY`"


@dataclass(frozen=True, slots=True)
class Guard:
    """Who is let in: everybody, unless there are keys or a ``client_ca``. Paths are absolute."""

    keys: tuple[str, ...] = ()
    certificate: str = ""
    private_key: str = ""
    client_ca: str = ""  # who must have signed clients' certificates

    @classmethod
    def of_arguments(cls, args: argparse.Namespace) -> Guard:
        """From ``GUARD_FLAGS``. Raises as ``of_files``."""
        return cls.of_files(args.triton_key_file, args.triton_tls_cert, args.triton_tls_key, args.triton_tls_client_ca)

    @classmethod
    def of_files(cls, keys: str, certificate: str, private_key: str, client_ca: str) -> Guard:
        """Raises ``ValueError`` with one line that names the setting."""
        if bool(certificate) != bool(private_key):
            raise ValueError("TRITON_TLS_CERT and TRITON_TLS_KEY are given together; here one is missing")
        if client_ca and not certificate:
            raise ValueError("TRITON_TLS_CLIENT_CA asks clients for certificates: it needs TRITON_TLS_CERT as well")
        try:
            known = key_file.read(Path(keys)) if keys else ()
        except ValueError as error:
            raise ValueError(f"TRITON_KEY_FILE: {error}") from None
        _check(certificate, private_key, client_ca)
        return cls(known, *(str(Path(p).absolute()) if p else "" for p in (certificate, private_key, client_ca)))

    @property
    def is_open(self) -> bool:
        return not self.keys and not self.client_ca


def _check(certificate: str, private_key: str, client_ca: str) -> None:
    """Envoy would say in fifty lines that a file is wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    what = f"TRITON_TLS_CERT={certificate} with TRITON_TLS_KEY={private_key}"
    try:
        if certificate:
            context.load_cert_chain(certificate, private_key)
        what = f"TRITON_TLS_CLIENT_CA={client_ca}"
        if client_ca:
            context.load_verify_locations(client_ca)
    except OSError as error:
        raise ValueError(f"{what} cannot be used ({reason(error)}); give files in PEM") from None


def address(host: str, port: int) -> dict[str, Any]:
    """``::`` takes IPv4 too, as Triton's own gRPC does."""
    both: dict[str, bool] = {"ipv4_compat": True} if host == "::" else {}
    return {"socket_address": {"address": host, "port_value": port, **both}}


def grpc_proxy(host: str, port: int, guard: Guard, triton_port: int) -> dict[str, Any]:
    """Bootstrap of the proxy to one Triton on localhost. Without Envoy's admin page: it would show the keys."""
    endpoint = {"endpoint": {"address": address("127.0.0.1", triton_port)}}
    triton = {
        "name": "triton",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "triton", "endpoints": [{"lb_endpoints": [endpoint]}]},
        **upstream(),
    }
    return bootstrap(listener(host, port, guard, {"cluster": "triton", "retry_policy": RETRIES}), triton)


def bootstrap(listener: dict[str, Any], cluster: dict[str, Any]) -> dict[str, Any]:
    monitor = f"{TYPES}.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    most = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {"@type": monitor, "max_active_downstream_connections": CONNECTIONS},
    }
    return {
        "overload_manager": {"resource_monitors": [most]},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    }


RETRIES: dict[str, Any] = {"retry_on": "connect-failure,refused-stream", "num_retries": 3}  # what no Triton has seen


def upstream() -> dict[str, Any]:
    """What connections to Tritons have in common."""
    options = f"{TYPES}.upstreams.http.v3.HttpProtocolOptions"
    return {
        "connect_timeout": "2s",
        "per_connection_buffer_limit_bytes": BUFFER,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": PINGS}},
            }
        },
        "circuit_breakers": {
            "thresholds": [{"max_connections": LIMIT, "max_pending_requests": LIMIT, "max_requests": LIMIT}]
        },
    }


def listener(
    host: str, port: int, guard: Guard, route: dict[str, Any], filters: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """``route``: the cluster and what is special about the way to it. ``filters``: HTTP filters before the router."""
    # Without the first two an answer is cut after 15 s, or after 5 minutes of silence.
    route = {"timeout": "0s", "idle_timeout": "0s", **route}
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "grpc",
        "codec_type": "AUTO",
        "stream_idle_timeout": "0s",
        "request_headers_timeout": HEADERS,
        "common_http_protocol_options": {"idle_timeout": IDLE},
        "http2_protocol_options": {
            "max_concurrent_streams": LIMIT,
            "initial_stream_window_size": BUFFER,
            "initial_connection_window_size": 4 * BUFFER,
        },
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes(guard, route)}]},
        "http_filters": [
            *filters,
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"},
            },
        ],
    }
    chain: dict[str, Any] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    }
    if guard.certificate:
        chain |= {"transport_socket_connect_timeout": HANDSHAKE, "transport_socket": _tls(guard)}
    return {
        "name": "grpc",
        "address": address(host, port),
        "per_connection_buffer_limit_bytes": BUFFER,
        "filter_chains": [chain],
    }


def routes(guard: Guard, route: dict[str, Any]) -> list[dict[str, Any]]:
    """The first match counts. HTTP statuses become gRPC's: 401 UNAUTHENTICATED, 404 UNIMPLEMENTED."""
    keyed: list[list[dict[str, Any]]] = [
        [{"name": "authorization", "string_match": {"exact": f"Bearer {key}"}}] for key in guard.keys
    ] or [[]]
    method = {"safe_regex": {"regex": METHODS}}
    packed = [
        {"name": "grpc-encoding", "present_match": True},
        {"name": "grpc-encoding", "string_match": {"exact": "identity"}, "invert_match": True},
    ]
    passing: list[dict[str, Any]] = [{"match": {**method, "headers": headers}, "route": route} for headers in keyed]
    for each in passing:
        each["request_headers_to_remove"] = ["authorization"]  # Triton has no use for it, and traces would show it
    known = [{"match": {"prefix": "/", "headers": headers}, **_refuse(404, OTHER_METHOD)} for headers in keyed]
    return [
        {"match": {"prefix": "/", "headers": packed}, **_refuse(404, COMPRESSED)},
        *passing,
        *known,
        *([{"match": {"prefix": "/"}, **_refuse(401, NO_KEY)}] if guard.keys else []),
    ]


def _refuse(status: int, why: str) -> dict[str, Any]:
    return {"direct_response": {"status": status, "body": {"inline_string": why}}}


def _tls(guard: Guard) -> dict[str, Any]:
    certificate = {
        "certificate_chain": {"filename": guard.certificate},
        "private_key": {"filename": guard.private_key},
    }
    common: dict[str, Any] = {
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [certificate],
    }
    if guard.client_ca:
        common["validation_context"] = {"trusted_ca": {"filename": guard.client_ca}}
    config = {
        "@type": f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": common,
        "require_client_certificate": bool(guard.client_ca),
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}
