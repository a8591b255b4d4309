"""Envoy's configuration: gRPC balanced per stream over replicas whose gateway says that they are ready."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from contract.replica import HEADER

# A host that is gone sends no reset: its streams are broken off when a ping stays unanswered; clients go on elsewhere.
PINGS = {"interval": "2s", "timeout": "5s"}
LIMIT = 65_536  # requests and connections in all; Envoy's own limit of 1,024 refuses the rest


def configuration(replicas: list[tuple[str, int]], host: str, port: int, admin_port: int) -> dict[str, Any]:
    """Bootstrap for ``replicas``, pairs of gateway URL and gRPC port, served at ``host:port``.

    A drain shows at the gateway's ``/health/ready`` only: Triton's gRPC health check does not see it.
    Fields: https://www.envoyproxy.io/docs/envoy/v1.35.0/api-v3/api
    """
    return {
        "admin": {"address": _address("127.0.0.1", admin_port)},
        "static_resources": {"listeners": [_listener(host, port)], "clusters": [_cluster(replicas)]},
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _listener(host: str, port: int) -> dict[str, Any]:
    # Without these two an answer is cut after 15 s, or after 5 minutes of silence.
    route = {"cluster": "replicas", "timeout": "0s", "idle_timeout": "0s", "retry_policy": _retries()}
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    http = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    manager = {
        "@type": f"type.googleapis.com/{http}",
        "stat_prefix": "grpc",
        "codec_type": "AUTO",
        "stream_idle_timeout": "0s",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]
        },
        "http_filters": [_replica_header(), {"name": "envoy.filters.http.router", "typed_config": {"@type": router}}],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": "grpc", "address": _address(host, port), "filter_chains": [chain]}


def _replica_header() -> dict[str, Any]:
    """Answers name their replica, and a request that names one goes there: a client's stop must meet its stream."""
    session = "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession"
    by_header = "type.googleapis.com/envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState"
    state = {"name": "envoy.http.stateful_session.header", "typed_config": {"@type": by_header, "name": HEADER}}
    return {
        "name": "envoy.filters.http.stateful_session",
        "typed_config": {"@type": session, "session_state": state},
    }


def _retries() -> dict[str, Any]:
    """Of requests that no replica has seen: a dead one has the fewest requests until its health check fails."""
    previous = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {
        "retry_on": "connect-failure,refused-stream",
        "num_retries": 3,
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": previous}}
        ],
        "host_selection_retry_max_attempts": 5,
    }


def _cluster(replicas: list[tuple[str, int]]) -> dict[str, Any]:
    options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": "replicas",
        "type": "STRICT_DNS",
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 0},  # never send to a replica that drains, but stops for its streams
            "override_host_status": {"statuses": ["UNKNOWN", "HEALTHY", "DEGRADED", "UNHEALTHY", "DRAINING"]},
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": PINGS}},
            }
        },
        "circuit_breakers": {
            "thresholds": [{"max_connections": LIMIT, "max_pending_requests": LIMIT, "max_requests": LIMIT}]
        },
        # Connect failures only: an error inside an answer says nothing about the replica.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 2,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "base_ejection_time": "2s",
            "max_ejection_percent": 100,
        },
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 1,
                "healthy_threshold": 1,
                # The gateway speaks HTTP/1.1, the gRPC port of the same cluster HTTP/2.
                "http_health_check": {"path": "/health/ready", "codec_client_type": "HTTP1"},
            }
        ],
        "load_assignment": {
            "cluster_name": "replicas",
            "endpoints": [{"lb_endpoints": [_endpoint(*r) for r in replicas]}],
        },
    }


def _endpoint(url: str, grpc_port: int) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "endpoint": {
            "address": _address(parts.hostname or "", grpc_port),
            "health_check_config": {"port_value": parts.port or 80},
        }
    }
