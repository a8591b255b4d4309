"""API key, certificates and headers, from variables of the environment; they stay out of plans and reports."""

from __future__ import annotations

import os
import re
from typing import Any

from gevent import ssl

from client import credentials
from contract import key_file
from loadtest.errors import LoadtestError

HEADERS = "LOADTEST_HEADERS"  # "X-Tenant: blue; X-Team: red"
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e]+)")  # RFC 9110 5.1 and 5.5, without obs-text

_OF_HTTP = {"connection", "content-length", "content-type", "te", "transfer-encoding", "upgrade"}


def extra_headers() -> dict[str, str]:
    """Headers of every request, over both transports; names in lower case, as in HTTP/2. Raises ``LoadtestError``."""
    found = {}
    for part in filter(None, (part.strip() for part in os.environ.get(HEADERS, "").split(";"))):
        if (header := _HEADER.fullmatch(part)) is None:
            raise LoadtestError(f"{HEADERS}: {part!r} is not a header: write {HEADERS}='X-Tenant: blue; X-Team: red'")
        if header[1].lower() in _OF_HTTP:
            raise LoadtestError(f"{HEADERS}: {header[1]} is set by HTTP itself: leave it out")
        found[header[1].lower()] = header[2]
    return found


def http_headers() -> dict[str, str]:
    """The gateway's key and ``extra_headers``. Raises ``LoadtestError``."""
    try:
        key = key_file.checked(os.environ.get("OPENAI_API_KEY", ""), "OPENAI_API_KEY")
    except ValueError as error:
        raise LoadtestError(str(error)) from None
    return ({"authorization": f"Bearer {key}"} if key else {}) | extra_headers()


def tls_context(*protocols: str) -> Any:
    """gevent's TLS context with the files of ``QWEN_TLS_…``; ``protocols`` are ALPN's. Raises ``LoadtestError``.

    Not ``create_default_context``: without monkey-patching it is Python's own, whose reads block every greenlet.
    """
    try:
        tls = credentials.tls_of(os.environ) or credentials.Tls()
        context = tls.context(ssl.SSLContext)
    except ValueError as error:
        raise LoadtestError(str(error)) from None
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def triton_key() -> dict[str, str]:
    """The header with the first key of ``TRITON_KEY_FILE``, if that is set. Raises ``LoadtestError``."""
    try:
        return dict(credentials.Credentials(credentials.key_of()).metadata)
    except ValueError as error:
        raise LoadtestError(str(error)) from None
