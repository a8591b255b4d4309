"""A GGUF file's tensors with the names, row order and number types of Hugging Face checkpoints."""

from __future__ import annotations

import math
import mmap
import re
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from build_engine.checkpoint import STORED
from build_engine.gguf.header import Header, Tensor
from contract.errors import BuildError

# llama.cpp's name -> Hugging Face's:
# https://github.com/ggml-org/llama.cpp/blob/0e8779a54caad0fa1dbb652a31d92f9bf44005c7/gguf-py/gguf/tensor_mapping.py
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
IN_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
UNUSED = {"rope_freqs.weight"}  # not a weight of the graph: see ``config``
PLAIN = {GGMLQuantizationType[name] for name in STORED}
QUANTIZED = {
    GGMLQuantizationType[name]
    for name in (
        "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
    )
}  # fmt: skip
LOW_BITS = 5.5  # weights with fewer bits have lost too much to be rounded to 4 bits again
PAGE = mmap.PAGESIZE


class GgufTensors:
    """The same interface as ``build_engine.checkpoint.Checkpoint``; quantized tensors are read as float32.

    Queries and keys of a ``llama`` file lie in llama.cpp's rotary order (pairs side by side); reading puts them back
    into Hugging Face's order (first halves, then second halves).
    """

    def __init__(self, header: Header) -> None:
        """Raises ``BuildError`` for tensors of a type, or with a name, that cannot be read."""
        self.header = header
        self.config: dict[str, Any] = {}
        self._names = {_name(header, name): name for name in header.tensors if name not in UNUSED}
        for name, tensor in header.tensors.items():
            _check(name, tensor)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    @property
    def names(self) -> list[str]:
        return sorted(self._names)

    @property
    def parameters(self) -> int:
        """The number of weights in all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.header.tensors.values())

    @property
    def lossless_bytes(self) -> int:
        """Bytes of all tensors as ``raw`` returns them."""
        return sum(math.prod(self.shape(name)) * np.dtype(STORED[self.dtype(name)]).itemsize for name in self._names)

    @property
    def is_low_bit(self) -> bool:
        """Whether the layers' weights have fewer than ``LOW_BITS`` bits."""
        tensor = self._tensor("model.layers.0.mlp.gate_proj.weight")
        weights, stored = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
        return bool(8 * stored / weights < LOW_BITS)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensor(name).shape

    def dtype(self, name: str) -> str:
        """``BF16``, ``F16`` or ``F32``; a quantized tensor's values are ``F32``."""
        kind = GGMLQuantizationType(self._tensor(name).kind)
        return kind.name if kind in PLAIN else "F32"

    def raw(self, name: str) -> npt.NDArray[Any]:
        """As stored, BF16 as uint16 bits; quantized: the float32 values."""
        kind = GGMLQuantizationType(self._tensor(name).kind)
        if kind not in PLAIN:
            return self.float32(name)
        return self._rows(name).view(STORED[kind.name]).reshape(self.shape(name))

    def float32(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32]:
        """Rows ``start:stop`` of the first axis."""
        tensor = self._tensor(name)
        values = dequantize(self._rows(name, start, stop), GGMLQuantizationType(tensor.kind))
        return np.array(values, np.float32).reshape(-1, *tensor.shape[1:])

    def plain(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor by GGUF's own name, flat."""
        tensor = self.header.tensors[name]
        return np.asarray(dequantize(_bytes(tensor), GGMLQuantizationType(tensor.kind)), np.float32).reshape(-1)

    def forget(self, name: str) -> None:
        """Tell the kernel that the tensor's pages will not be needed soon."""
        tensor = self._tensor(name)
        start = -(-tensor.offset // PAGE) * PAGE
        length = (tensor.offset + _size(tensor)) // PAGE * PAGE - start
        if length > 0:
            tensor.map.madvise(mmap.MADV_DONTNEED, start, length)

    def _rows(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.uint8]:
        """The bytes of rows ``start:stop`` in Hugging Face's order."""
        tensor, part = self._tensor(name), name.split(".")[-2]
        data = _bytes(tensor)
        if self.header.architecture != "llama" or part not in ("q_proj", "k_proj"):
            return data[start:stop]
        heads = self.config["num_attention_heads" if part == "q_proj" else "num_key_value_heads"]
        order = np.arange(tensor.shape[0]).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
        picked: npt.NDArray[np.uint8] = data[order[start:stop]]
        return picked

    def _tensor(self, name: str) -> Tensor:
        try:
            return self.header.tensors[self._names[name]]
        except KeyError:
            raise BuildError(f"{self.header.files[0]} has no tensor {name}: the file is incomplete") from None


def _name(header: Header, name: str) -> str:
    """Hugging Face's name of a tensor."""
    stem, _, kind = name.rpartition(".")
    if stem in WHOLE:
        return f"{WHOLE[stem]}.{kind}"
    match = IN_BLOCK.fullmatch(name)
    if match and match[2] in BLOCK:
        return f"model.layers.{match[1]}.{BLOCK[match[2]]}.{kind}"
    raise BuildError(f"{header.files[0]} holds a tensor {name}, which the models that can be built do not have")


def _check(name: str, tensor: Tensor) -> None:
    try:
        kind = GGMLQuantizationType(tensor.kind)
    except ValueError:
        kind = None
    if kind not in PLAIN | QUANTIZED:
        known = ", ".join(sorted(each.name for each in PLAIN | QUANTIZED))
        shown = kind.name if kind is not None else f"type {tensor.kind}"
        raise BuildError(f"{tensor.path}: {name} is {shown}; these can be read: {known}")
    is_vector = len(tensor.shape) < 2
    whole = tensor.shape and tensor.shape[-1] % GGML_QUANT_SIZES[kind][0] == 0
    if not whole or (is_vector and kind in QUANTIZED) or tensor.offset + _size(tensor) > len(tensor.map):
        raise BuildError(f"{tensor.path} is truncated or damaged (at {name}): download it again")


def _size(tensor: Tensor) -> int:
    """Bytes in the file."""
    weights, stored = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
    return int(math.prod(tensor.shape) // weights * stored)


def _bytes(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """uint8 [rows, bytes of a row]; a vector is one row for each of its values."""
    data = np.frombuffer(tensor.map, np.uint8, _size(tensor), tensor.offset)
    return data.reshape(tensor.shape[0], -1)
