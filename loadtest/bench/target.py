"""The server under attack: its two ports, and what came back through them."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from dataclasses import dataclass

from client import Client
from client.types import NO_RETRY


@dataclass(frozen=True, slots=True)
class Target:
    """Ports of the server under attack."""

    grpc: int
    gateway: int

    def client(self) -> Client:
        return Client(f"127.0.0.1:{self.grpc}", retry=NO_RETRY)


def counted(answers: Iterable[str]) -> str:
    return "; ".join(f"{times} x {answer}" for answer, times in collections.Counter(answers).most_common(3))


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
