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

from serving.runtimes.openvino.blocks import blocks_for
from serving.runtimes.openvino.scheduler import ScheduledChunk

SAMPLED = "sampled_tokens_indices"
PREFILL_ROWS = 32  # with AMX, steps of so many tokens are faster in BF16 than with quantized activations
TWICE_BYTES = 1 << 30  # weights up to this size are held twice, once per kind of step
QUANTIZED_COLUMNS = 32  # activations per scale: 128 is a little faster and costs twice the accuracy (docs/cpu.md)
VNNI = frozenset({"avx512_vnni", "avx_vnni"})
INT32, INT64 = np.int32, np.int64
log = logging.getLogger(__name__)


def properties(
    precision: str, capabilities: Sequence[str], flags: frozenset[str], threads: int = 0, prefill: bool = False
) -> dict[str, Any]:
    """CPU plugin settings. All explicit: the plugin's own defaults differ from one CPU model to the next.

    fp32 is exact everywhere. bf16 computes in BF16 where the CPU has it, else in FP32, and keeps KV in 16 bits (as
    float16 where the CPU lacks BF16: the plugin then refuses BF16 tensors). INT8 and INT4 keep KV in 8 bits, and round
    activations to 8 bits in groups, which needs VNNI: older CPUs compute with 8-bit weights in FP32. With ``prefill``
    they compute in BF16, for which the CPU must have it. ``capabilities``: OpenVINO's; ``flags``: ``cpu_flags()``.
    """
    has_bf16 = "BF16" in capabilities
    quantized = precision not in ("fp32", "bf16")
    bf16 = has_bf16 and (prefill if quantized else precision == "bf16")
    narrow = quantized and not bf16 and (not flags or bool(flags & VNNI))
    kv = {"fp32": "f32", "bf16": "bf16" if has_bf16 else "f16"}.get(precision, "u8")
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "KV_CACHE_PRECISION": kv,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": QUANTIZED_COLUMNS if narrow else 0,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def has_prefill_model(precision: str, flags: frozenset[str], weight_bytes: int) -> bool:
    """Whether long steps get a model of their own, which holds the weights a second time. ``flags``: of the CPU.

    Only AMX pays for it: AVX-512 multiplies 8-bit numbers faster than BF16 in steps of any length (docs/cpu.md).
    """
    return precision in ("int8", "int4") and "amx_bf16" in flags and weight_bytes <= TWICE_BYTES


def cpu_flags() -> frozenset[str]:
    """Instruction sets by Linux's names; empty where there is no /proc/cpuinfo or it names none (ARM)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


class PagedModel:
    """Not thread-safe. ``allocate`` must be called once before ``forward``."""

    def __init__(self, path: Path, precision: str, threads: int = 0) -> None:
        core = ov.Core()
        model = core.read_model(str(path))
        paged_attention_transformation(model)
        _sample_before_head(model)
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        flags = cpu_flags()
        twice = has_prefill_model(precision, flags, path.with_suffix(".bin").stat().st_size)
        kinds = [properties(precision, capabilities, flags, threads, prefill) for prefill in (False, True)[: 1 + twice]]
        compiled = [core.compile_model(model, "CPU", settings) for settings in kinds]
        # four rows cost little more than one where activations have 8 bits; in FP32 they cost half as much again
        self.has_cheap_rows = kinds[0]["DYNAMIC_QUANTIZATION_GROUP_SIZE"] > 0
        used = compiled[0].get_property("INFERENCE_NUM_THREADS")
        log.info("%d threads; compiled with %s", used, " and ".join(map(str, kinds)))
        self._requests = [each.create_infer_request() for each in compiled]
        self._caches = _cache_ports(compiled[0])
        if any(_layout(_cache_ports(each)) != _layout(self._caches) for each in compiled):
            raise RuntimeError(f"openvino {ov.__version__}: the models for short and long steps lay KV out differently")
        self._tensors: list[ov.Tensor] = []
        self.vocab_size = int(compiled[0].output(0).get_partial_shape()[-1].get_length())

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
            for request in self._requests:
                request.set_tensor(port.get_any_name(), tensor)
            self._tensors.append(tensor)
            self._tensors.append(data)

    def forward(self, chunks: Sequence[ScheduledChunk]) -> npt.NDArray[np.float32]:
        """Compute one step; logits [``rows`` of all chunks, vocab] in order, valid until the next call.

        Releases the GIL. Keys and values of every chunk are in their blocks afterwards."""
        long = sum(len(chunk.tokens) for chunk in chunks) >= PREFILL_ROWS
        request = self._requests[-1 if long else 0]
        for name, values in batch(chunks).items():
            request.set_tensor(name, ov.Tensor(values))
        request.infer()
        logits: npt.NDArray[np.float32] = request.get_output_tensor(0).data
        return logits.reshape(-1, logits.shape[-1])


def batch(chunks: Sequence[ScheduledChunk]) -> dict[str, npt.NDArray[Any]]:
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
