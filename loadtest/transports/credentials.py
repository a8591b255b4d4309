"""API key and certificates, from the same variables as the client library's; they stay out of plans and reports."""

from __future__ import annotations

import os
from typing import Any

from gevent import ssl

from client import credentials
from loadtest.errors import LoadtestError


def tls_context(*protocols: str) -> Any:
    """By ``QWEN_TLS_…``; ``protocols`` are ALPN's. Raises ``LoadtestError``.

    gevent's own ``create_default_context`` makes Python's context where nothing is patched, and its reader blocks all.
    """
    try:
        tls = credentials.tls_of(os.environ) or credentials.Tls()
        context = tls.context(ssl.SSLContext)
    except ValueError as error:
        raise LoadtestError(str(error)) from None
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def door_key() -> dict[str, str]:
    """The header with the first key of ``TRITON_KEY_FILE``, if that is set. Raises ``LoadtestError``."""
    try:
        return dict(credentials.Credentials(credentials.key_of()).metadata)
    except ValueError as error:
        raise LoadtestError(str(error)) from None
