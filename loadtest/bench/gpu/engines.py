"""The engines that are compared: random weights in the shape of Qwen2.5-7B, made on the GPU in seconds."""

from __future__ import annotations

import contract.program

import json
from pathlib import Path
from typing import Any

from build_engine import tokenizer_files
from build_engine.spec import BuildSpec
from build_engine.synthetic.checkpoint import layout
from build_engine.vllm import build as vllm_build
from contract.errors import BuildError
from contract.model_shape import ModelShape
from contract.paths import ROOT
from loadtest.arguments import Arguments, count

CONFIG = ROOT / "build_engine" / "data" / "qwen2.5-7b-instruct.config.json"
CONTEXT = 8192
SEED = 20250101
SHARD_LAYERS = 7  # decoder layers per safetensors file
STD = 0.02
# What the layers add to the residual stream: a tenth of the embedding each, so that context matters but no noise is
# amplified from layer to layer, as in a trained model.
RESIDUAL_STD = {"o_proj.weight": 0.004, "down_proj.weight": 0.0015}
FOLLOWERS = 4  # likely next tokens of each token
# Logits of the followers and their noise: together they get about half of the probability, about a nat apart.
FOLLOWER_LOGIT, NOISE = 15.0, 0.8
# Names of engines beside the plain precisions: the precision, and further settings of the build.
BUILDS: dict[str, tuple[str, dict[str, Any]]] = {
    "fp8-head": ("fp8", {"fp8_head": True}),
    "fp8-kv": ("fp8", {"kv_dtype": "fp8"}),
    "fp8-head-kv": ("fp8", {"fp8_head": True, "kv_dtype": "fp8"}),
}
SMALL = {  # for checks of what an engine does, not how fast
    "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "max_window_layers": 4,
}  # fmt: skip


def checkpoint(directory: Path, config_file: Path = CONFIG, *, weights: bool = True, small: bool = False) -> Path:
    """A complete BF16 checkpoint with random weights in the shape of ``config_file``; kept if it is there.

    Without ``weights`` engines make up their own (``load_format="dummy"``), and answers are noise.

    Each token has ``FOLLOWERS`` random likely successors, and the context decides among them: purely random weights
    give flat distributions, in which any rounding changes the next token and no accuracy can be judged.
    """
    if (directory / "config.json").is_file():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8")) | {"synthetic": True}
    config |= SMALL if small else {}
    tokenizer_files.write(directory)
    if weights:
        write_weights(directory, config)
    (directory / "config.json").write_text(
        json.dumps(config, indent=2) + "\n", encoding="utf-8"
    )  # last: it is complete
    return directory


def write_weights(directory: Path, config: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab_size()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(SEED)
    shape = ModelShape.of(config)
    sizes = dict(layout(shape))
    shards: dict[int, dict[str, Any]] = {}
    embedding: Any = None
    for name, size in sizes.items():
        layer = int(name.split(".")[2]) if name.startswith("model.layers.") else -1
        if "norm" in name:
            tensor = torch.ones(size, dtype=torch.bfloat16)
        elif name == "lm_head.weight":
            tensor = _followers(embedding, generator).cpu()
            tensor[tokens:] = 0  # no tokenizer has these: vLLM's frontend in Rust ends an answer at one of them
        else:
            std = next((s for end, s in RESIDUAL_STD.items() if name.endswith(end)), STD)
            std = 1.0 if name == "model.embed_tokens.weight" else std
            made = torch.randn(size, generator=generator, device=device, dtype=torch.bfloat16) * std
            embedding = made if name == "model.embed_tokens.weight" else embedding
            tensor = made.cpu()
        shards.setdefault(layer // SHARD_LAYERS + 1, {})[name] = tensor
    weight_map: dict[str, str] = {}
    for number, tensors in shards.items():
        file = f"model-{number:05d}.safetensors"
        save_file(tensors, str(directory / file), metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _followers(embedding: Any, generator: Any) -> Any:
    """An output layer that answers each token with a random group of ``FOLLOWERS`` tokens, told apart by noise."""
    import torch

    vocab, hidden = embedding.shape
    order = torch.randperm(vocab, generator=generator, device=embedding.device)
    groups = torch.zeros(vocab // FOLLOWERS, hidden, device=embedding.device)
    groups.index_add_(0, order % (vocab // FOLLOWERS), embedding.float())
    noise = torch.randn(vocab, hidden, generator=generator, device=embedding.device)
    sharpness, spread = FOLLOWER_LOGIT / hidden, NOISE / FOLLOWER_LOGIT * hidden**0.5
    return (sharpness * (groups.repeat_interleave(FOLLOWERS, 0) + spread * noise)).to(embedding.dtype)


def engine(
    source: Path, out: Path, precision: str, tensor_parallel: int = 1, options: dict[str, Any] | None = None
) -> Path:
    """An engine directory of the vLLM builder for ``source``; kept if it is there.

    ``precision``: one of the builder's or a name in ``BUILDS``."""
    precision, settings = BUILDS.get(precision, (precision, {}))
    if not (out / "engine.json").is_file():
        vllm_build.build(
            BuildSpec(
                str(source),
                precision,
                "vllm",
                out,
                context=CONTEXT,
                tensor_parallel=tensor_parallel,
                vllm_args=options or {},
                command="make bench-gpu",
                **settings,
            )
        )
    return out


def bits(name: str) -> tuple[str, str]:
    """The precisions of an engine's weights and of its KV cache, as ``limits.Traffic`` names them."""
    precision, settings = BUILDS.get(name, (name, {}))
    return precision.removesuffix("-dynamic"), settings.get("kv_dtype", "bf16")


def main() -> None:
    parser = Arguments(prog="python -m loadtest.bench.gpu.engines", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="a directory with about 40 GB free")
    parser.add_argument("--precision", nargs="+", default=["fp8", "bf16"])
    parser.add_argument("--tp", type=count, default=1)
    parser.add_argument("--small", action="store_true", help="4 narrow layers, no graphs: for features.py")
    args = parser.parse_args()
    options = {"enforce_eager": True} if args.small else {}
    try:
        source = checkpoint(args.work / "checkpoint", small=args.small)
        for precision in args.precision:
            print(engine(source, args.work / f"{precision}-tp{args.tp}", precision, args.tp, options), flush=True)
    except BuildError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
