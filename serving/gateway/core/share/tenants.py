"""The tenants among whom the engine is shared, and how many open requests each may have."""

from __future__ import annotations

import collections
import zlib
from collections.abc import Callable

from serving.gateway.core.auth import Key
from serving.gateway.core.share.table import TENANTS
from serving.gateway.schema.errors import ApiError

OF_THE_FREE = 7  # a tenant may hold this many times the slots that are free: alone seven eighths of all


def tenant_of(key: Key | None, user: str, address: str) -> int:
    """The key; without keys the request's ``user``, and without one the client's address. An index into the table."""
    if key is not None:
        return key.at % TENANTS
    return zlib.crc32(f"user {user}".encode() if user else f"address {address}".encode()) % TENANTS


class TenantSlots:
    """Open requests of one worker, bounded for each tenant by what is free: nobody takes the last ones from the rest.

    These are the dynamic thresholds of Choudhury and Hahne (IEEE/ACM Transactions on Networking 6(2), 1998)."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: collections.Counter[int] = collections.Counter()

    def take(self, tenant: int, retry_after: Callable[[], int]) -> None:
        """Raises ``ApiError`` 429."""
        taken, free = self._taken[tenant], self._most - self._taken.total()
        if taken and taken >= OF_THE_FREE * free:
            raise ApiError(
                429, f"{taken} of your requests are already in progress, and the others need the rest; try again later",
                code="too_many_requests", retry_after=retry_after(),
            )  # fmt: skip
        self._taken[tenant] += 1

    def give_back(self, tenant: int) -> None:
        self._taken[tenant] -= 1
        if not self._taken[tenant]:
            del self._taken[tenant]
