"""TensorRT-LLM's iteration records as KV cache gauges. ``poll`` may block as long as the executor does."""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger(__name__)
TIMEOUT_S = 0.5


class Statistics:
    """``blocks`` is (used, total) KV blocks of the newest record; it keeps its value while no record comes."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._complained = False
        self.blocks = (0, 0)

    def poll(self) -> None:
        try:
            records = list(self._llm.get_stats(timeout=TIMEOUT_S))
        except Exception as error:  # noqa: BLE001 - its time-out (RPCTimeout) derives from Exception alone
            if not self._complained:
                log.warning("TensorRT-LLM gave no statistics; the KV gauges keep their last value: %r", error)
            self._complained = True
            return
        if records:
            used, total = self.blocks
            stats = records[-1].get("kvCacheStats") or {}
            self.blocks = int(stats.get("usedNumBlocks", used)), int(stats.get("maxNumBlocks", total))
