"""The header that names a replica behind a router: in a response who answered, in a request whom it must reach."""

from __future__ import annotations

from collections.abc import Iterable

# Written and read by Envoy (deploy/envoy.py). A request to stop must reach the replica that answers the other one.
HEADER = "x-replica"

Route = tuple[tuple[str, str], ...]  # gRPC metadata; empty where no router says anything


def route(metadata: Iterable[tuple[str, str | bytes]]) -> Route:
    """From a response's initial metadata."""
    return tuple((name, value) for name, value in metadata if name == HEADER and isinstance(value, str))
