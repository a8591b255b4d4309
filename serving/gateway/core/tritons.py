"""The Tritons behind the gateway: their addresses and the credentials that each requires."""

from __future__ import annotations

from pathlib import Path

from client import address
from client.credentials import Credentials, Tls
from contract import key_file
from serving.gateway.settings import GatewaySettings, GatewaySettingsError


def load(settings: GatewaySettings) -> tuple[tuple[str, Credentials], ...]:
    """``host:port`` and credentials of each, its own Triton first. Raises ``GatewaySettingsError``."""
    try:
        key = key_file.read(Path(settings.triton_key_file))[0] if settings.triton_key_file else ""
        tls = Tls(settings.triton_ca, settings.triton_certificate, settings.triton_certificate_key)
        tls.context()
        parsed = [address.parse(each) for each in settings.tritons]
    except ValueError as error:
        raise GatewaySettingsError(f"TRITON_GRPC, GATEWAY_PEERS, GATEWAY_TRITON_…: {error}") from None
    if any(each.transport != "grpc" for each in parsed):
        raise GatewaySettingsError(f"TRITON_GRPC, GATEWAY_PEERS: {settings.tritons} must be gRPC addresses")
    return tuple((each.target, Credentials(key, tls if each.secure else None)) for each in parsed)
