"""The API key, TLS settings and client certificate of a connection."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from contract import key_file

VARIABLES = {  # of ``Tls``, in its order
    "QWEN_TLS_CA": "who signed the server's certificate",
    "QWEN_TLS_CERT": "your own certificate",
    "QWEN_TLS_KEY": "the key of your own certificate",
}
KEY_FILE = "TRITON_KEY_FILE"


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM. ``ca``: who must have signed the server's certificate; empty: an authority that this system knows.

    ``certificate`` and ``key``: the client's own, for servers that ask for one (mutual TLS)."""

    ca: str | Path = ""
    certificate: str | Path = ""
    key: str | Path = ""

    def context(self, kind: Callable[[int], Any] = ssl.SSLContext) -> Any:
        """A context of ``kind``: Python's or gevent's. Raises ``ValueError`` with one sentence that names the file."""
        if bool(self.certificate) != bool(self.key):
            raise ValueError("TLS: a client's certificate and its key are given together, here one is missing")
        context = kind(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and name
        try:
            if self.ca:
                context.load_verify_locations(str(self.ca))
            else:
                context.load_default_certs()
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"TLS: the CA file {self.ca} cannot be read ({reason(error)})") from None
        if self.certificate:
            try:
                context.load_cert_chain(str(self.certificate), str(self.key))
            except (OSError, ssl.SSLError) as error:
                names = f"{self.certificate} and {self.key}"
                raise ValueError(f"TLS: certificate and key {names} cannot be read ({reason(error)})") from None
        return context

    def channel_credentials(self) -> Any:
        """gRPC's. Raises as ``context`` does, which reads the same files."""
        self.context()
        ca, certificate, key = (Path(p).read_bytes() if p else None for p in (self.ca, self.certificate, self.key))
        return grpc.ssl_channel_credentials(ca, key, certificate)


@dataclass(frozen=True, slots=True)
class Credentials:
    """``tls`` None: the connection is plain text, and so is the key on it."""

    api_key: str = ""
    tls: Tls | None = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """gRPC's headers of every call."""
        return (("authorization", f"Bearer {self.api_key}"),) if self.api_key else ()

    def channel(self, module: Any, target: str, options: list[tuple[str, int]]) -> Any:
        """``module``: ``grpc`` or ``grpc.aio``."""
        if self.tls is None:
            return module.insecure_channel(target, options)
        return module.secure_channel(target, self.tls.channel_credentials(), options)


PLAIN = Credentials()


def tls_of(environment: Mapping[str, str]) -> Tls | None:
    """What ``QWEN_TLS_…`` say; None where none is set."""
    given = [environment.get(variable, "") for variable in VARIABLES]
    return Tls(*given) if any(given) else None


def key_of(environment: Mapping[str, str] = os.environ) -> str:
    """The first key of ``TRITON_KEY_FILE``; "" without one. Raises ``ValueError``."""
    path = environment.get(KEY_FILE, "")
    try:
        return key_file.read(Path(path))[0] if path else ""
    except ValueError as error:
        raise ValueError(f"{KEY_FILE}: {error}") from None


def reason(error: OSError) -> str:
    """``strerror``; of an ``ssl.SSLError`` what it is about."""
    return (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or "not in PEM"
