"""Envoy's configuration: gRPC balanced per stream over replicas whose gateway says that they are ready."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from contract.replica import HEADER
from serving.launch import envoy
from serving.launch.envoy import Guard

CHECK_SECONDS = 1  # how often both routers ask whether a replica is ready; they believe the first answer


def configuration(
    replicas: list[tuple[str, int]], host: str, port: int, admin_port: int, guard: Guard
) -> dict[str, Any]:
    """Bootstrap for ``replicas``, pairs of gateway URL and gRPC port, served at ``host:port``.

    A drain shows at the gateway's ``/health/ready`` only: Triton's gRPC health check does not see it.
    """
    route = {"cluster": "replicas", "retry_policy": _retries()}
    listener = envoy.listener(host, port, guard, route, [_replica_header()])
    # Only those parts of the admin page that reveal no keys.
    shown = [{"exact": "/ready"}, {"prefix": "/stats"}]
    admin = {"address": envoy.address("127.0.0.1", admin_port), "allow_paths": shown}
    return {"admin": admin, **envoy.bootstrap(listener, _cluster(replicas))}


def _replica_header() -> dict[str, Any]:
    """Answers name their replica, and a request that names one goes there: a client's stop must meet its stream."""
    by_header = f"{envoy.TYPES}.http.stateful_session.header.v3.HeaderBasedSessionState"
    state = {"name": "envoy.http.stateful_session.header", "typed_config": {"@type": by_header, "name": HEADER}}
    return {
        "name": "envoy.filters.http.stateful_session",
        "typed_config": {
            "@type": f"{envoy.TYPES}.filters.http.stateful_session.v3.StatefulSession",
            "session_state": state,
        },
    }


def _retries() -> dict[str, Any]:
    """Retries of requests that no replica has seen. A dead replica attracts requests, because it has the fewest, until
    its health check fails."""
    previous = f"{envoy.TYPES}.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {
        **envoy.RETRIES,
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": previous}}
        ],
        "host_selection_retry_max_attempts": 5,
    }


def _cluster(replicas: list[tuple[str, int]]) -> dict[str, Any]:
    return {
        "name": "replicas",
        "type": "STRICT_DNS",
        "lb_policy": "LEAST_REQUEST",
        # The least loaded of 32 draws. With Envoy's default of two, one replica can be full beside another with room.
        "least_request_lb_config": {"choice_count": {"value": 32}},
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 0},  # never send to a replica that drains, but stops for its streams
            "override_host_status": {"statuses": ["UNKNOWN", "HEALTHY", "DEGRADED", "UNHEALTHY", "DRAINING"]},
        },
        **envoy.upstream(),
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
                "interval": f"{CHECK_SECONDS}s",
                "no_traffic_interval": f"{CHECK_SECONDS}s",
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
            "address": envoy.address(parts.hostname or "", grpc_port),
            "health_check_config": {"port_value": parts.port or 80},
        }
    }
