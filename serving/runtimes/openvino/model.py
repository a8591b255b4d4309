"""The compiled models of an engine: an IR turned into its paged-attention form, its KV tensors, one forward pass.

``paged_attention_transformation`` lives in a private module of OpenVINO (other engines call it too), so the version is
pinned exactly and a test compares this module's output with a plain numpy forward pass.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import Type
from openvino import opset13 as op
from openvino._offline_transformations import paged_attention_transformation

from serving.runtimes.openvino.blocks import blocks_for
from serving.runtimes.openvino.scheduler import ScheduledChunk
from serving.runtimes.openvino.settings import (
    cpu_flags,
    crossover,
    draft_cost,
    has_long_model,
    has_one_row_model,
    properties,
)

SAMPLED = "sampled_tokens_indices"
LONE = {  # sizes of the inputs of a stream that decodes alone; block_indices has room for every block
    "input_ids": 1, "position_ids": 1, SAMPLED: 1, "past_lens": 1, "subsequence_begins": 2, "block_indices_begins": 2,
}  # fmt: skip
TIMED_ROWS = (8, 16, 32, 64, 128)  # steps that are timed to find where long ones begin
TIMES = 4  # runs of each, of which the fastest counts: other work on the machine only ever slows one down
INT32, INT64 = np.int32, np.int64
Inputs = dict[str, npt.NDArray[Any]]
log = logging.getLogger(__name__)


class PagedModel:
    """Up to three compiled models over one KV cache: one for steps of any shape; one for long steps, where the CPU
    multiplies BF16 faster; and one of fixed shapes for a stream that decodes alone.

    Not thread-safe. ``allocate`` must be called once before ``forward``."""

    def __init__(self, path: Path, precision: str, threads: int = 0) -> None:
        self._core = ov.Core()
        self._model = self._core.read_model(str(path))
        paged_attention_transformation(self._model)
        _sample_before_head(self._model)
        capabilities, flags = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"), cpu_flags()
        weight_bytes = path.with_suffix(".bin").stat().st_size
        self._settings = properties(precision, capabilities, flags, threads)
        compiled = self._core.compile_model(self._model, "CPU", self._settings)
        log.info("%d threads; compiled with %s", compiled.get_property("INFERENCE_NUM_THREADS"), self._settings)
        self._any = compiled.create_infer_request()
        self._caches = _cache_ports(compiled)
        self.vocab_size = int(compiled.output(0).get_partial_shape()[-1].get_length())
        self._long: Any = None
        if has_long_model(precision, flags, weight_bytes):
            self._long = self._compile_long(properties(precision, capabilities, flags, threads, prefill=True))
        self._lone: Any = None
        self._wants_lone = has_one_row_model(precision, weight_bytes)
        self.draft_cost = draft_cost(self._settings, self._wants_lone)

    @property
    def block_bytes(self) -> int:
        """Bytes of one KV block over all layers."""
        return sum(int(np.prod(_block_shape(port))) * port.get_element_type().size for port in self._caches)

    def allocate(self, blocks: int) -> None:
        """Create the KV tensors. The system hands out their pages when they are first written."""
        self._blocks = blocks
        self._tensors: dict[str, tuple[ov.Tensor, npt.NDArray[np.uint8]]] = {}
        for port in self._caches:
            shape, kind = [blocks, *_block_shape(port)], port.get_element_type()
            data = np.zeros((*shape, kind.size), np.uint8)
            self._tensors[port.get_any_name()] = ov.Tensor(data, shape, kind), data
        if self._wants_lone:
            self._lone = self._compile_lone()
        for request in filter(None, (self._any, self._long, self._lone)):
            for name, (tensor, _) in self._tensors.items():
                request.set_tensor(name, tensor)
        self._long_rows = self._find_crossover() if self._long else None
        if self._long_rows is None:
            self._long = None  # and its weights

    def forward(self, chunks: Sequence[ScheduledChunk]) -> npt.NDArray[np.float32]:
        """Compute one step; logits [``rows`` of all chunks, vocab] in order, valid until the next call.

        Releases the GIL. Keys and values of every chunk are in their blocks afterwards."""
        inputs = batch(chunks)
        rows = len(inputs["input_ids"])
        if self._lone and all(len(inputs[name]) == size for name, size in LONE.items()):
            table = np.zeros(self._blocks, INT32)
            table[: len(inputs["block_indices"])] = inputs["block_indices"]
            return _run(self._lone, inputs | {"block_indices": table})
        return _run(self._long if self._long_rows is not None and rows >= self._long_rows else self._any, inputs)

    def _compile_lone(self) -> Any:
        """All shapes known, so that OpenVINO checks none of them in a step."""
        model = self._model.clone()
        sizes: dict[str, Any] = {**LONE, "block_indices": self._blocks}
        shapes = {name: ov.PartialShape([size]) for name, size in sizes.items()}
        for port in _cache_ports(model):
            shapes[port.get_any_name()] = ov.PartialShape([self._blocks, *list(port.get_partial_shape())[1:]])
        model.reshape(shapes)
        compiled = self._core.compile_model(model, "CPU", self._settings)
        self._check_layout(compiled)
        return compiled.create_infer_request()

    def _compile_long(self, settings: dict[str, Any]) -> Any:
        compiled = self._core.compile_model(self._model, "CPU", settings)
        self._check_layout(compiled)
        log.info("for long steps with %s", settings)
        return compiled.create_infer_request()

    def _check_layout(self, compiled: Any) -> None:
        if _layout(_cache_ports(compiled)) != _layout(self._caches):
            raise RuntimeError(f"openvino {ov.__version__}: the models of one engine lay KV out differently")

    def _find_crossover(self) -> int | None:
        """Time both models on prompts of some lengths. Steps of some hundred ms in all; the KV cache is still empty."""
        sizes = [rows for rows in TIMED_ROWS if blocks_for(rows) <= self._blocks]
        seconds: list[dict[int, float]] = [{}, {}]
        for rows in sizes:
            inputs = prompt(rows)
            for _ in range(1 + TIMES):  # in turn, so that other work on the machine falls on both
                for request, found in zip((self._any, self._long), seconds, strict=True):
                    start = time.perf_counter()
                    _run(request, inputs)
                    found[rows] = min(found.get(rows, np.inf), time.perf_counter() - start)
        best = crossover(*seconds)
        short, long = ({rows: round(1e3 * s, 1) for rows, s in found.items()} for found in seconds)
        log.info("ms by rows of a step: %s, with the model for long steps %s; long from %s rows", short, long, best)
        return best


def _run(request: Any, inputs: Inputs) -> npt.NDArray[np.float32]:
    for name, values in inputs.items():
        request.set_tensor(name, ov.Tensor(values))
    request.infer()
    logits: npt.NDArray[np.float32] = request.get_output_tensor(0).data
    return logits.reshape(-1, logits.shape[-1])


def prompt(rows: int) -> Inputs:
    """The inputs of a step that reads a prompt of ``rows`` tokens into the first blocks."""
    return {
        "input_ids": np.zeros(rows, INT64),
        "position_ids": np.arange(rows, dtype=INT64),
        "past_lens": np.zeros(1, INT32),
        "subsequence_begins": np.array([0, rows], INT32),
        "block_indices": np.arange(blocks_for(rows), dtype=INT32),
        "block_indices_begins": np.array([0, blocks_for(rows)], INT32),
        "max_context_len": np.array(rows, INT32),
        SAMPLED: np.array([rows - 1], INT64),
    }


def batch(chunks: Sequence[ScheduledChunk]) -> Inputs:
    """The inputs of PagedAttention for one step: all chunks' tokens in one row, and where each one's blocks lie."""
    parts = [chunk.tokens for chunk in chunks]
    ends = np.cumsum([len(part) for part in parts])
    lengths = [chunk.start + len(part) for chunk, part in zip(chunks, parts, strict=True)]
    tables = [chunk.sequence.blocks[: blocks_for(length)] for chunk, length in zip(chunks, lengths, strict=True)]
    rows = [row for end, c in zip(ends, chunks, strict=True) for row in range(end - c.rows, end)]
    positions = np.concatenate([np.arange(c.start, n, dtype=INT64) for c, n in zip(chunks, lengths, strict=True)])
    return {
        "input_ids": np.array([token for part in parts for token in part], INT64),
        "position_ids": positions,
        "past_lens": np.array([chunk.start for chunk in chunks], INT32),
        "subsequence_begins": np.concatenate([[0], ends]).astype(INT32),
        "block_indices": np.array([block for table in tables for block in table], INT32),
        "block_indices_begins": np.concatenate([[0], np.cumsum([len(t) for t in tables])]).astype(INT32),
        "max_context_len": np.array(max(lengths), INT32),
        SAMPLED: np.array(rows, INT64),
    }


def _sample_before_head(model: Any) -> None:
    """Gather the rows that are sampled before the vocabulary projection, the largest multiplication of a step."""
    head = model.get_results()[0].input_value(0).get_node()
    rows = op.parameter([-1], Type.i64, SAMPLED)
    rows.output(0).get_tensor().set_names({SAMPLED})
    picked = op.gather(head.input_value(0), rows, op.constant(np.int64(0)))
    head.input(0).replace_source_output(picked.output(0))
    model.add_parameters([rows])
    model.validate_nodes_and_infer_types()


def _cache_ports(compiled: Any) -> list[Any]:
    return [port for port in compiled.inputs if "_cache." in port.get_any_name()]


def _layout(ports: Sequence[Any]) -> list[tuple[str, str, list[int]]]:
    return [(port.get_any_name(), str(port.get_element_type()), _block_shape(port)) for port in ports]


def _block_shape(port: Any) -> list[int]:
    return [dimension.get_length() for dimension in list(port.get_partial_shape())[1:]]
