"""``host:port`` as URLs, gRPC and HTTP headers write it: an IPv6 address stands in brackets."""

from __future__ import annotations


def authority(host: str, port: int) -> str:
    """``host`` without brackets."""
    return f"{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
