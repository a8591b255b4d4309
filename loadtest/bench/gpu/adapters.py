"""LoRA adapters of random weights in the shape of a model, as peft saves them.

``python -m loadtest.bench.gpu.adapters --model CHECKPOINT --out DIR --count 2`` prints what ``LORA=`` takes.
"""

from __future__ import annotations

import contract.program

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from build_engine.checkpoint import write_safetensors
from contract.model_shape import ModelShape
from loadtest.arguments import Arguments, count

RANK, ALPHA = 16, 32
STD = 0.02
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write(directory: Path, source: Path, number: int) -> Iterator[tuple[str, Path]]:
    """``number`` adapters for the checkpoint ``source``: name and directory of each; kept if they are there."""
    for index in range(1, number + 1):
        out = directory / f"adapter-{index}"
        if not (out / "adapter_config.json").is_file():
            _write(out, json.loads((source / "config.json").read_text(encoding="utf-8")), seed=index)
        yield out.name, out


def _write(out: Path, config: dict[str, object], seed: int) -> None:
    shape, rng = ModelShape.of(config), np.random.default_rng(seed)
    out.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for layer in range(shape.layers):
        for target in TARGETS:
            rows, columns = _size(shape, target)
            part = "self_attn" if target[0] in "qkvo" and target != "up_proj" else "mlp"
            name = f"base_model.model.model.layers.{layer}.{part}.{target}"
            for half, size in (("A", (RANK, columns)), ("B", (rows, RANK))):
                values = (rng.standard_normal(size, np.float32) * STD).astype(np.float16)
                tensors[f"{name}.lora_{half}.weight"] = ("F16", values)
    write_safetensors(out / "adapter_model.safetensors", tensors)
    about = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0,
        "bias": "none", "target_modules": list(TARGETS), "base_model_name_or_path": "",
    }  # fmt: skip
    (out / "adapter_config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _size(shape: ModelShape, target: str) -> tuple[int, int]:
    """Rows and columns of the weight that ``target`` names."""
    heads, kv = shape.hidden, shape.kv_heads * shape.head_dim
    sizes = {
        "q_proj": (heads, heads), "k_proj": (kv, heads), "v_proj": (kv, heads), "o_proj": (heads, heads),
        "gate_proj": (shape.intermediate, heads), "up_proj": (shape.intermediate, heads),
        "down_proj": (heads, shape.intermediate),
    }  # fmt: skip
    return sizes[target]


def main() -> None:
    parser = Arguments(prog="python -m loadtest.bench.gpu.adapters", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint directory with config.json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=count, default=2)
    args = parser.parse_args()
    print(",".join(f"{name}={path}" for name, path in write(args.out, args.model, args.count)))


if __name__ == "__main__":
    main()
