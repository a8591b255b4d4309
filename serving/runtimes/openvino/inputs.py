"""What PagedAttention's form of a model takes in one step, and an infer request that takes it without new tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from serving.runtimes.openvino.blocks import BLOCK_TOKENS, blocks_for
from serving.runtimes.openvino.scheduler import ScheduledChunk

SAMPLED = "sampled_tokens_indices"
CONTEXT = "max_context_len"  # the only scalar
ONE_ROW = ("input_ids", "position_ids", SAMPLED)  # have one element where a stream decodes alone
# Tokens of context from which a lone stream's attention is divided among the threads, though that changes its last bits
# (see ``batch``): undivided, a step of SmolLM2 takes 0.98 of the time behind 100 tokens, 1.02 behind 1,000 and 1.24
# behind 3,000 (two threads).
DIVIDED = 1024
Inputs = Mapping[str, Sequence[int]]


def batch(chunks: Sequence[ScheduledChunk]) -> Inputs:
    """One step: all chunks' tokens in one row, and where each one's blocks lie.

    Where no sequence has several tokens and there are fewer sequences than threads, PagedAttention divides each context
    among the threads and so adds up in another order. Where activations are rounded to 8 bits, the last bits that this
    changes become tenths of a nat. A further sequence without tokens counts as one of several and prevents it."""
    ids: list[int] = []
    positions: list[int] = []
    table: list[int] = []
    rows: list[int] = []
    begins, table_begins, context = [0], [0], 0
    for chunk in chunks:
        ids += chunk.tokens
        end = chunk.start + len(ids) - begins[-1]
        positions += range(chunk.start, end)
        table += chunk.sequence.blocks[: blocks_for(end)]
        rows += range(len(ids) - chunk.rows, len(ids))
        begins.append(len(ids))
        table_begins.append(len(table))
        context = max(context, end)
    past = [chunk.start for chunk in chunks]
    if len(ids) == len(chunks) and (len(chunks) > 1 or context < DIVIDED):
        past.append(0)
        begins.append(begins[-1])
        table_begins.append(table_begins[-1])
    return {
        "input_ids": ids,
        "position_ids": positions,
        "past_lens": past,
        "subsequence_begins": begins,
        "block_indices": table,
        "block_indices_begins": table_begins,
        CONTEXT: [context],
        SAMPLED: rows,
    }


def prompt(rows: int) -> Inputs:
    """A step that reads a prompt of ``rows`` tokens into the first blocks."""
    return {
        "input_ids": [0] * rows,
        "position_ids": range(rows),
        "past_lens": [0],
        "subsequence_begins": [0, rows],
        "block_indices": range(blocks_for(rows)),
        "block_indices_begins": [0, blocks_for(rows)],
        CONTEXT: [rows],
        SAMPLED: [rows - 1],
    }


def context_room(context: int) -> int:
    """``CONTEXT`` of a first step after which no stream of up to ``context`` tokens makes PagedAttention grow.

    It sizes its scores by the longest context that it has seen, and compiles 96 kernels anew whenever that passes a
    block: 5 ms in every 32nd token. A block more keeps the rows of a round context off the same lines of the cache."""
    return BLOCK_TOKENS * (blocks_for(context) + 1)


def is_one_row(inputs: Inputs) -> bool:
    return all(len(inputs[name]) == 1 for name in ONE_ROW)


class BoundRequest:
    """An infer request whose input tensors are set once and then written in place.

    OpenVINO looks for a tensor's port among those of all layers' caches: setting all eight anew takes 0.2 ms."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._tensors: dict[str, Any] = {}
        self._views: dict[str, npt.NDArray[Any]] = {}
        self._free: set[str] = set()  # inputs whose size may change from step to step
        for port in compiled.inputs:
            name = port.get_any_name()
            if "_cache." not in name:
                shape = port.get_partial_shape()
                tensor = ov.Tensor(port.get_element_type(), [1] if shape.is_dynamic else shape.to_shape())
                self.bind(name, tensor)
                if shape.is_dynamic:
                    self._free.add(name)
                self._tensors[name], self._views[name] = tensor, tensor.data.reshape(-1)

    def bind(self, name: str, tensor: ov.Tensor) -> None:
        self._request.set_tensor(name, tensor)

    def run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Logits [sampled rows, vocab], valid until the next call. A fixed shape may have room for more than is given.

        Releases the GIL."""
        for name, values in inputs.items():
            view = self._views[name]
            if len(view) != len(values) and name in self._free:
                self._tensors[name].shape = [len(values)]
                view = self._views[name] = self._tensors[name].data
            view[: len(values)] = values
        self._request.infer(share_outputs=True)  # or it would copy the logits
        logits: npt.NDArray[np.float32] = self._request.get_output_tensor(0).data
        return logits.reshape(-1, logits.shape[-1])
