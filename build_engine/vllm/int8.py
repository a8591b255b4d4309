"""BF16 checkpoint -> INT8 W8A8 checkpoint (compressed-tensors) for vLLM.

Weights are rounded to the nearest of 255 levels per output row; vLLM scales activations per token while running. The
tensors may be smoothed first (``build_engine.vllm.smoothing``). ``llmcompressor_export`` does more (GPTQ) but takes a
GPU and a quarter of an hour; the accuracy gate tells which one a model needs. Format: "int-quantized" of
compressed-tensors (https://github.com/vllm-project/compressed-tensors, src/compressed_tensors/compressors).
"""

from __future__ import annotations

import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engine.checkpoint import INDEX, Tensors, bf16_to_float32, float32_to_bf16, write_safetensors

log = logging.getLogger(__name__)

KEPT = ("embed_tokens", "lm_head")  # stay in BF16
ROWS = 1024  # per conversion: its float32 values fit a core's cache
LEVELS = 127.0
SHARD_BYTES = 2 << 30
WEIGHTS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
ACTIVATIONS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}


def quantization_config() -> dict[str, Any]:
    """For ``config.json``, so that vLLM recognizes the weights."""
    group = {"targets": ["Linear"], "weights": dict(WEIGHTS), "input_activations": dict(ACTIVATIONS)}
    return {
        "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": ["lm_head"],
    }  # fmt: skip


def export(checkpoint: Tensors, directory: Path) -> None:
    """Write the quantized shards of ``checkpoint`` and their index. Raises ``BuildError`` for a damaged one."""
    weight_map: dict[str, str] = {}
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for number, names in enumerate(_shards(checkpoint), 1):
            file = f"model-{number:05d}.safetensors"
            tensors = dict(pair for part in pool.map(lambda name: _converted(checkpoint, name), names) for pair in part)
            write_safetensors(directory / file, tensors)
            weight_map |= dict.fromkeys(tensors, file)
            log.info(
                "int8: %d of %d tensors", len([n for n in weight_map if not n.endswith("_scale")]), _total(checkpoint)
            )
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index), encoding="utf-8")


def rounded(rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """INT8 values and one scale per row ([n, 1]): value × scale is within half a scale of the weight.

    Scales are stored in BF16, so the values are rounded with the scale that BF16 keeps: with the exact one each row
    would come back longer or shorter by up to 0.4 %.
    """
    scale = bf16_to_float32(float32_to_bf16(np.abs(rows).max(axis=1, keepdims=True) / np.float32(LEVELS)))
    scale[scale == 0] = 1.0
    return np.clip(np.rint(rows / scale), -LEVELS, LEVELS).astype(np.int8), scale


def _total(checkpoint: Tensors) -> int:
    return len(checkpoint.names)


def _is_quantized(checkpoint: Tensors, name: str) -> bool:
    return name.endswith(".weight") and len(checkpoint.shape(name)) == 2 and not any(part in name for part in KEPT)


def _shards(checkpoint: Tensors) -> list[list[str]]:
    """Names of tensors, grouped by the file that holds them."""
    shards, size = [[]], 0  # type: list[list[str]], int
    for name in checkpoint.names:
        bytes_of = int(np.prod(checkpoint.shape(name))) * (1 if _is_quantized(checkpoint, name) else 2)
        if shards[-1] and size + bytes_of > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += bytes_of
    return shards


def _converted(checkpoint: Tensors, name: str) -> list[tuple[str, tuple[str, npt.NDArray[Any]]]]:
    if not _is_quantized(checkpoint, name):
        raw = checkpoint.raw(name)
        return [(name, (checkpoint.dtype(name), raw))]
    rows, columns = checkpoint.shape(name)
    values, scales = np.empty((rows, columns), np.int8), np.empty((rows, 1), np.float32)
    for at in range(0, rows, ROWS):
        values[at : at + ROWS], scales[at : at + ROWS] = rounded(checkpoint.float32(name, at, at + ROWS))
    checkpoint.forget(name)
    return [(name, ("I8", values)), (f"{name}_scale", ("BF16", float32_to_bf16(scales)))]
