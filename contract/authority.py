"""``host:port`` as written in URLs, gRPC targets and HTTP headers: with IPv6 addresses in brackets."""

from __future__ import annotations


def authority(host: str, port: int) -> str:
    """``host`` without brackets."""
    return f"{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
