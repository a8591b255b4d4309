"""Calibrate and write an FP8 checkpoint in ModelOpt's format: static scales for weights and activations.

A "dynamic" scale, one per token found while serving, costs a pass over the activations before every matrix product; a
static one is folded into the norm or activation before it. Layer by layer: run the calibration prompts through the
layer, take the largest magnitudes, write the layer's codes and scales, keep only the prompts' activations.

Tensors per linear map: ``weight`` F8_E4M3, ``weight_scale`` and ``input_scale`` F32 scalars; with ``kv``
``k_proj.k_scale`` and ``v_proj.v_scale`` per layer. Readers: vLLM 0.24 to 0.33, TensorRT-LLM's PyTorch backend
(docs/tensorrt_llm_facts.md, "Quantized checkpoints").
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from build_engine.checkpoint import INDEX, Checkpoint, require_layout, write_safetensors
from build_engine.fp8.decoder import Extremes, rms_norm
from build_engine.fp8.decoder import load as load_tensor
from build_engine.fp8.scales import JOINED, joint_scale, scale_of, to_codes
from build_engine.fp8.walk import Walk, device_and_type
from contract.errors import BuildError

log = logging.getLogger(__name__)

Stored = tuple[str, npt.NDArray[Any]]  # the format's word for the type, and the values
PROMPTS = {"cuda": 512, "cpu": 24}  # magnitudes settle early; on a CPU a prompt of a 7B model takes seconds
TOKENS = 2048  # read of each prompt
HEAD, NORM = "lm_head", "model.norm.weight"
PRODUCER = {"name": "modelopt", "version": "0.37.0"}  # readers check this name; the format is that of this release


@dataclass(frozen=True, slots=True)
class Fp8Options:
    kv: bool = False  # scales for an FP8 KV cache
    head: bool = False  # the output layer in FP8 too; only vLLM reads that


def export(
    source: Path, directory: Path, config: dict[str, Any], prompts: Sequence[Sequence[int]], options: Fp8Options
) -> None:
    """Write the quantized shards of ``source`` with their index, and ``hf_quant_config.json``.

    ``prompts`` are token ids (``encoded``). ``config`` is the ``config.json`` that will be served (its positions may be
    stretched). Raises ``BuildError`` for a damaged checkpoint, and for an FP8 output layer that is one with the
    embedding.
    """
    checkpoint = Checkpoint(source)
    checkpoint.config = config
    require_layout(checkpoint, source)
    if options.head and f"{HEAD}.weight" not in checkpoint:
        raise BuildError(f"{source} has no output layer of its own (tied to the embedding): it cannot be FP8 alone")
    writer = _Shards(directory)
    with torch.inference_mode():
        calibrator = _Calibrator(checkpoint, prompts)
        for number in range(config["num_hidden_layers"]):
            writer.add(f"model-{number + 1:05d}.safetensors", calibrator.layer(number, options.kv))
        writer.add("model-00000.safetensors", calibrator.rest(options.head))
    del calibrator
    writer.finish()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the caller may load an engine next
    (directory / "hf_quant_config.json").write_text(json.dumps(_modelopt_config(options), indent=2) + "\n", "utf-8")


def quantization_config(options: Fp8Options) -> dict[str, Any]:
    """What goes into ``config.json``; vLLM and transformers read this, TensorRT-LLM ``hf_quant_config.json``."""
    numbers = {"num_bits": 8, "type": "float", "dynamic": False}
    groups = {"group_0": {"input_activations": dict(numbers), "weights": dict(numbers), "targets": ["Linear"]}}
    kv = {"kv_cache_scheme": dict(numbers)} if options.kv else {}
    ignored = [] if options.head else [HEAD]
    return {
        "quant_method": "modelopt", "quant_algo": "FP8", "producer": PRODUCER, "ignore": ignored,
        "config_groups": groups, **kv,
    }  # fmt: skip


def _modelopt_config(options: Fp8Options) -> dict[str, Any]:
    return {
        "producer": PRODUCER,
        "quantization": {
            "quant_algo": "FP8",
            "kv_cache_quant_algo": "FP8" if options.kv else None,
            "exclude_modules": [] if options.head else [HEAD],
        },
    }


def encoded(source: Path, texts: Sequence[str]) -> list[list[int]]:
    """As many of ``texts`` as this device calibrates on, as token ids. Raises ``BuildError`` without any."""
    path = source / "tokenizer.json"
    if not path.is_file():
        raise BuildError(f"{source} has no tokenizer.json: copy the model's tokenizer files there")
    tokenizer = Tokenizer.from_file(str(path))
    used = texts[: PROMPTS[device_and_type()[0].type]]
    found = [ids for text in used if (ids := tokenizer.encode(text, add_special_tokens=False).ids[:TOKENS])]
    if not found:
        raise BuildError("calibration: no prompt has a token")
    log.info("calibrating on %d prompts, %d tokens", len(found), sum(map(len, found)))
    return found


class _Calibrator:
    """Quantizes the layers in order, each with the magnitudes that the prompts show in it."""

    def __init__(self, checkpoint: Checkpoint, prompts: Sequence[Sequence[int]]) -> None:
        self._checkpoint = checkpoint
        self._walk = Walk(checkpoint, prompts)
        self._began = time.monotonic()

    def layer(self, number: int, kv: bool) -> dict[str, Stored]:
        """Run layer ``number`` and return its tensors, quantized."""
        seen = Extremes()
        layer = self._walk.layer(number, seen)
        prefix, plain = f"model.layers.{number}.", dict(layer.weights)
        tensors: dict[str, Stored] = {}
        for place, maps in JOINED.items():
            weights = {name: plain.pop(f"{name}.weight") for name in maps}
            for name, tensor in _quantized(weights, scale_of(seen[place])).items():
                tensors[prefix + name] = tensor
        if kv:
            tensors[f"{prefix}self_attn.k_proj.k_scale"] = _scalar(scale_of(max(seen["key"], seen["query"])))
            tensors[f"{prefix}self_attn.v_proj.v_scale"] = _scalar(scale_of(seen["value"]))
        for name in plain:
            tensors[prefix + name] = self._as_stored(prefix + name)
        log.info("fp8: layer %d of %d, %.0f s", number + 1, self._checkpoint.config["num_hidden_layers"],
                 time.monotonic() - self._began)  # fmt: skip
        return tensors

    def rest(self, head: bool) -> dict[str, Stored]:
        """What is not in a layer: embedding, last norm and output layer."""
        names = [name for name in self._checkpoint.names if not name.startswith("model.layers.")]
        if not head:
            return {name: self._as_stored(name) for name in names}
        device, kind = self._walk.device, self._walk.dtype
        norm = load_tensor(self._checkpoint, NORM, device).to(kind)
        epsilon = float(self._checkpoint.config.get("rms_norm_eps", 1e-6))
        largest = max(float(rms_norm(x, norm, epsilon).abs().amax()) for x in self._walk.activations)
        weights = {HEAD: load_tensor(self._checkpoint, f"{HEAD}.weight", device)}
        quantized = _quantized(weights, scale_of(largest))
        return {name: self._as_stored(name) for name in names if name != f"{HEAD}.weight"} | quantized

    def _as_stored(self, name: str) -> Stored:
        return self._checkpoint.dtype(name), self._checkpoint.raw(name)


def _quantized(weights: dict[str, torch.Tensor], input_scale: float) -> dict[str, Stored]:
    """``weight``, ``weight_scale`` and ``input_scale`` of linear maps that share their input and their scale."""
    scale = joint_scale(list(weights.values()))
    tensors: dict[str, Stored] = {}
    for name, weight in weights.items():
        codes = to_codes(weight, scale).view(torch.uint8).cpu().numpy()
        tensors |= {f"{name}.weight": ("F8_E4M3", codes), f"{name}.weight_scale": _scalar(scale)}
        tensors[f"{name}.input_scale"] = _scalar(input_scale)
    return tensors


def _scalar(value: float) -> Stored:
    return "F32", np.array(value, np.float32)


class _Shards:
    """Shards and the index that names them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, str] = {}
        self._bytes = 0

    def add(self, file: str, tensors: dict[str, Stored]) -> None:
        write_safetensors(self._directory / file, tensors)
        self._files |= dict.fromkeys(tensors, file)
        self._bytes += sum(array.nbytes for _, array in tensors.values())

    def finish(self) -> None:
        index = {"metadata": {"total_size": self._bytes}, "weight_map": self._files}
        (self._directory / INDEX).write_text(json.dumps(index), encoding="utf-8")
