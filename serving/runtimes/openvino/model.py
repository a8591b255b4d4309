"""The compiled model: an IR turned into its paged-attention form, its KV tensors, and one forward pass.

``paged_attention_transformation`` lives in a private module of OpenVINO (other engines call it too), so the version is
pinned exactly and a test compares this module's output with a plain numpy forward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import Type
from openvino import opset13 as op
from openvino._offline_transformations import paged_attention_transformation

from serving.runtimes.openvino.blocks import BLOCK_TOKENS
from serving.runtimes.openvino.scheduler import ScheduledChunk

SAMPLED = "sampled_tokens_indices"
INT32, INT64 = np.int32, np.int64
log = logging.getLogger(__name__)


def properties(precision: str, capabilities: Sequence[str], threads: int = 0) -> dict[str, Any]:
    """CPU plugin settings. All explicit: the plugin's own defaults differ from one CPU model to the next.

    fp32 is exact everywhere. The others compute in BF16 where the CPU has it, else in FP32; INT8 and INT4 keep KV in
    8 bits; bf16 keeps it in 16 bits (as float16 where the CPU lacks BF16: the plugin then refuses BF16 tensors).
    """
    has_bf16 = "BF16" in capabilities
    kv = {"fp32": "f32", "bf16": "bf16" if has_bf16 else "f16"}.get(precision, "u8")
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if has_bf16 and precision != "fp32" else "f32",
        "KV_CACHE_PRECISION": kv,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0 if precision in ("fp32", "bf16") else 128,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


class PagedModel:
    """Not thread-safe. ``allocate`` must be called once before ``forward``."""

    def __init__(self, path: Path, precision: str, threads: int = 0) -> None:
        core = ov.Core()
        model = core.read_model(str(path))
        paged_attention_transformation(model)
        _sample_before_head(model)
        settings = properties(precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"), threads)
        compiled = core.compile_model(model, "CPU", settings)
        log.info("compiled with %s", settings)
        self._request = compiled.create_infer_request()
        self._caches = [port for port in compiled.inputs if "_cache." in port.get_any_name()]
        self._tensors: list[ov.Tensor] = []
        self.vocab_size = int(compiled.output(0).get_partial_shape()[-1].get_length())

    @property
    def block_bytes(self) -> int:
        """Bytes of one KV block over all layers."""
        return sum(int(np.prod(_block_shape(port))) * port.get_element_type().size for port in self._caches)

    def allocate(self, blocks: int) -> None:
        """Create the KV tensors. The system hands out their pages when they are first written."""
        for port in self._caches:
            kind = port.get_element_type()
            data = np.zeros((blocks, *_block_shape(port), kind.size), np.uint8)
            tensor = ov.Tensor(data, [blocks, *_block_shape(port)], kind)
            self._request.set_tensor(port.get_any_name(), tensor)
            self._tensors.append(tensor)
            self._tensors.append(data)

    def forward(self, chunks: Sequence[ScheduledChunk]) -> npt.NDArray[np.float32]:
        """Compute one step; logits [sampling chunks, vocab] in order, valid until the next call.

        Releases the GIL. Keys and values of every chunk are in their blocks afterwards."""
        for name, values in batch(chunks).items():
            self._request.set_tensor(name, ov.Tensor(values))
        self._request.infer()
        logits: npt.NDArray[np.float32] = self._request.get_output_tensor(0).data
        return logits.reshape(-1, logits.shape[-1])


def batch(chunks: Sequence[ScheduledChunk]) -> dict[str, npt.NDArray[Any]]:
    """The inputs of PagedAttention for one step: all chunks' tokens in one row, and where each one's blocks lie."""
    ends = np.cumsum([chunk.count for chunk in chunks])
    tables = [chunk.sequence.blocks[: -(-(chunk.start + chunk.count) // BLOCK_TOKENS)] for chunk in chunks]
    tokens = [t for c in chunks for t in c.sequence.tokens[c.start : c.start + c.count]]
    positions = np.concatenate([np.arange(c.start, c.start + c.count, dtype=INT64) for c in chunks])
    return {
        "input_ids": np.array(tokens, INT64),
        "position_ids": positions,
        "past_lens": np.array([chunk.start for chunk in chunks], INT32),
        "subsequence_begins": np.concatenate([[0], ends]).astype(INT32),
        "block_indices": np.array([block for table in tables for block in table], INT32),
        "block_indices_begins": np.concatenate([[0], np.cumsum([len(t) for t in tables])]).astype(INT32),
        "max_context_len": np.array(max(chunk.start + chunk.count for chunk in chunks), INT32),
        SAMPLED: np.array([end - 1 for end, c in zip(ends, chunks, strict=True) if c.sample], INT64),
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


def _block_shape(port: Any) -> list[int]:
    return [dimension.get_length() for dimension in list(port.get_partial_shape())[1:]]
