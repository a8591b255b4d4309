"""Where a client connects: ``host:port`` and ``grpc://host:port`` mean Triton, ``http(s)://…`` the OpenAI gateway."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from contract.authority import authority

DEFAULT = "127.0.0.1:8001"


class Address(NamedTuple):
    transport: str  # "grpc" or "openai"
    target: str  # host:port, or the base URL without a trailing slash and without /v1
    secure: bool


def parse_all(urls: str, *, secure: bool = False) -> tuple[Address, ...]:
    """One address, or several gRPC ones separated by commas. ``secure``: those without a scheme mean ``grpcs://``.

    Raises ``ValueError`` with one clear sentence."""
    if not isinstance(urls, str):
        raise ValueError(f"address {urls!r}: give a str, for example {DEFAULT!r}")
    addresses = tuple(parse(url.strip(), secure=secure) for url in urls.split(","))
    if secure and not all(address.secure for address in addresses):
        raise ValueError(f"address {urls!r}: certificates are for grpcs:// and https:// addresses")
    if len({address.secure for address in addresses}) > 1:
        raise ValueError(f"address {urls!r}: write grpcs:// before all of them or before none")
    if len(addresses) > 1 and any(address.transport != "grpc" for address in addresses):
        raise ValueError(f"address {urls!r}: several addresses are for gRPC; put a router in front of gateways")
    return addresses


def parse(url: str, *, secure: bool = False) -> Address:
    """Raises ``ValueError`` with one clear sentence."""
    parts = urlsplit(url if "://" in url else f"{'grpcs' if secure else 'grpc'}://{url}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("grpc", "grpcs", "http", "https") or not parts.hostname or port == -1:
        raise ValueError(
            f"address {url!r}: write host:port, grpc://host:port, grpcs://host:port or http(s)://host:port"
        )
    if parts.scheme in ("http", "https"):
        return Address("openai", url.rstrip("/").removesuffix("/v1"), parts.scheme == "https")
    if port is None:
        raise ValueError(f"address {url!r}: the gRPC port is missing, for example {parts.hostname}:8001")
    return Address("grpc", authority(parts.hostname, port), parts.scheme == "grpcs")
