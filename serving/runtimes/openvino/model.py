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
from serving.runtimes.openvino.inputs import (
    CONTEXT,
    ONE_ROW,
    SAMPLED,
    BoundRequest,
    batch,
    context_room,
    is_one_row,
    prompt,
)
from serving.runtimes.openvino.scheduler import ScheduledChunk
from serving.runtimes.openvino.settings import (
    cpu_flags,
    crossover,
    draft_terms,
    has_long_model,
    has_one_row_model,
    properties,
)

TIMED_ROWS = (8, 16, 32, 64, 128)  # steps that are timed to find where long ones begin
TIMES = 4  # runs of each, of which the fastest counts: other work on the machine only ever slows one down
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
        self._any = BoundRequest(compiled)
        self._caches = _cache_ports(compiled)
        self.vocab_size = int(compiled.output(0).get_partial_shape()[-1].get_length())
        self._long: BoundRequest | None = None
        if has_long_model(precision, flags, weight_bytes):
            self._long = self._compile_long(properties(precision, capabilities, flags, threads, prefill=True))
        self._lone: BoundRequest | None = None
        self._wants_lone = has_one_row_model(precision, weight_bytes)
        self.draft_terms = draft_terms(self._settings, self._wants_lone)

    @property
    def block_bytes(self) -> int:
        """Bytes of one KV block over all layers."""
        return sum(int(np.prod(_block_shape(port))) * port.get_element_type().size for port in self._caches)

    def allocate(self, blocks: int, context: int = 0) -> None:
        """Create the KV tensors, for streams of up to ``context`` tokens. The system hands out their pages when they
        are first written."""
        self._blocks, self._context = blocks, context
        self._tensors: dict[str, tuple[ov.Tensor, npt.NDArray[np.uint8]]] = {}
        for port in self._caches:
            shape, kind = [blocks, *_block_shape(port)], port.get_element_type()
            data = np.zeros((*shape, kind.size), np.uint8)
            self._tensors[port.get_any_name()] = ov.Tensor(data, shape, kind), data
        if self._wants_lone:
            self._lone = self._compile_lone()
        for request in filter(None, (self._any, self._long)):
            for name, (tensor, _) in self._tensors.items():
                request.bind(name, tensor)
            request.run({**prompt(1), CONTEXT: [context_room(context)]})
        self._long_rows = self._find_crossover(self._long) if self._long else None
        if self._long_rows is None:
            self._long = None  # and its weights

    def forward(self, chunks: Sequence[ScheduledChunk]) -> npt.NDArray[np.float32]:
        """Compute one step; logits [``rows`` of all chunks, vocab] in order, valid until the next call.

        Releases the GIL. Keys and values of every chunk are in their blocks afterwards."""
        inputs = batch(chunks)
        if self._lone and is_one_row(inputs):
            return self._lone.run(inputs)
        if self._long and self._long_rows is not None and len(inputs["input_ids"]) >= self._long_rows:
            return self._long.run(inputs)
        return self._any.run(inputs)

    def _compile_lone(self) -> BoundRequest | None:
        """All shapes known but those of PagedAttention's lists, so that OpenVINO checks few of them in a step, and the
        KV tensors as constants, which PagedAttention writes all the same: an input is checked and bound anew in every
        step, and 60 take 0.5 ms.

        ``None`` where the plugin would compute with copies of them."""
        model = self._model.clone()
        sizes = {**dict.fromkeys(ONE_ROW, 1), "block_indices": self._blocks}
        model.reshape({name: ov.PartialShape([size]) for name, size in sizes.items()})
        for parameter in model.get_parameters():
            if found := self._tensors.get(parameter.output(0).get_any_name()):
                parameter.output(0).replace(op.constant(found[0], shared_memory=True).output(0))
                model.remove_parameter(parameter)
        model.validate_nodes_and_infer_types()
        request = BoundRequest(self._core.compile_model(model, "CPU", self._settings))
        request.run({**prompt(1), CONTEXT: [context_room(self._context)]})
        if all(data[0].any() for _, data in self._tensors.values()):
            return request
        log.warning("openvino %s copies constants here: a stream alone goes without fixed shapes", ov.__version__)
        return None

    def _compile_long(self, settings: dict[str, Any]) -> BoundRequest:
        compiled = self._core.compile_model(self._model, "CPU", settings)
        self._check_layout(compiled)
        log.info("for long steps with %s", settings)
        return BoundRequest(compiled)

    def _check_layout(self, compiled: Any) -> None:
        if _layout(_cache_ports(compiled)) != _layout(self._caches):
            raise RuntimeError(f"openvino {ov.__version__}: the models of one engine lay KV out differently")

    def _find_crossover(self, other: BoundRequest) -> int | None:
        """Time both models on prompts of some lengths. Steps of some hundred ms in all; the KV cache is still empty."""
        sizes = [rows for rows in TIMED_ROWS if blocks_for(rows) <= self._blocks]
        seconds: list[dict[int, float]] = [{}, {}]
        for rows in sizes:
            inputs = prompt(rows)
            for _ in range(1 + TIMES):  # in turn, so that other work on the machine falls on both
                for request, found in zip((self._any, other), seconds, strict=True):
                    start = time.perf_counter()
                    request.run(inputs)
                    found[rows] = min(found.get(rows, np.inf), time.perf_counter() - start)
        best = crossover(*seconds)
        short, long = ({rows: round(1e3 * s, 1) for rows, s in found.items()} for found in seconds)
        log.info("ms by rows of a step: %s, with the model for long steps %s; long from %s rows", short, long, best)
        return best


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
