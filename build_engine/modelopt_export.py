"""BF16 checkpoint → FP8 checkpoint that TensorRT-LLM's PyTorch backend (1.2.1 and 1.4) and vLLM (0.24) all read.

NVIDIA ModelOpt does the work: ``mtq.quantize`` with ``FP8_DEFAULT_CFG`` (weights and activations E4M3, one scale per
tensor, lm_head left alone), then ``export_hf_checkpoint``. It runs where torch, transformers and modelopt are: in the
TensorRT-LLM container (modelopt 0.37) and on a vLLM host (0.47); both have the calls used here (llmapi_surface.json).

``python -m build_engine.modelopt_export --model DIR --output DIR --calibration FILE.jsonl``
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contract.errors import BuildError

log = logging.getLogger(__name__)

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def export_fp8(
    model_dir: Path,
    output: Path,
    prompts: Sequence[str],
    *,
    fp8_kv: bool = False,
    max_tokens: int = 2048,
    device: str = "cuda",
) -> Path:
    """Quantize the checkpoint in ``model_dir`` on ``prompts`` (chat-templated texts) and write it to ``output``.

    Works in ``output + ".partial"`` and renames at the end, so ``output`` exists only when it is complete. Needs the
    BF16 model and its activations in the memory of ``device``. Raises ``BuildError`` without modelopt, or when the
    export is not what it was asked to be. Returns ``output``.
    """
    torch, transformers, quantization, export = _imports()
    model = transformers.AutoModelForCausalLM.from_pretrained(str(model_dir), torch_dtype=torch.bfloat16)
    model = model.eval().to(device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(model_dir))

    def forward_loop(calibrated: Any) -> None:
        with torch.no_grad():
            for number, prompt in enumerate(prompts, 1):
                encoded = tokenizer(prompt, truncation=True, max_length=max_tokens, add_special_tokens=False)
                calibrated(torch.tensor([encoded["input_ids"]], device=device))
                if number % 64 == 0:
                    log.info("calibration: %d of %d prompts", number, len(prompts))

    quantization.quantize(model, fp8_config(quantization, fp8_kv), forward_loop)
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with torch.inference_mode():
        export.export_hf_checkpoint(model, dtype=torch.bfloat16, export_dir=str(partial))
    copy_tokenizer(model_dir, partial)
    check_export(partial, fp8_kv=fp8_kv)
    shutil.rmtree(output, ignore_errors=True)
    partial.replace(output)
    return output


def fp8_config(quantization: Any, fp8_kv: bool) -> dict[str, Any]:
    """ModelOpt's FP8 preset, with FP8 KV quantizers only on request.

    In 0.37 ``quant_cfg`` is a dict, in 0.47 a list of entries; both presets are merged without editing keys by name.
    """
    config: dict[str, Any] = copy.deepcopy(quantization.FP8_DEFAULT_CFG)
    if fp8_kv:
        extra = copy.deepcopy(quantization.FP8_KV_CFG)["quant_cfg"]
        if isinstance(config["quant_cfg"], dict):
            config["quant_cfg"].update({key: value for key, value in extra.items() if key != "default"})
        else:
            config["quant_cfg"] = [*config["quant_cfg"], *extra]
    return config


def check_export(directory: Path, *, fp8_kv: bool) -> dict[str, Any]:
    """Read ``hf_quant_config.json`` and refuse an export that is not the FP8 asked for. Returns its ``quantization``.

    A mislabelled checkpoint loads and answers nonsense, so this is checked before anything is called finished.
    """
    path = directory / "hf_quant_config.json"
    if not path.is_file():
        raise BuildError(f"{path} is missing: ModelOpt did not write a quantized checkpoint")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["quantization"]
    want_kv = "FP8" if fp8_kv else None
    if found.get("quant_algo") != "FP8" or found.get("kv_cache_quant_algo") != want_kv:
        raise BuildError(
            f"{path} says quant_algo {found.get('quant_algo')!r} and kv_cache_quant_algo "
            f"{found.get('kv_cache_quant_algo')!r}; wanted 'FP8' and {want_kv!r}: use the modelopt of versions.toml"
        )
    if not any("lm_head" in name for name in found.get("exclude_modules") or []):
        raise BuildError(f"{path} does not exclude lm_head: use the modelopt version pinned in versions.toml")
    return found


def copy_tokenizer(source: Path, target: Path) -> None:
    """Put the tokenizer and generation defaults beside the weights, as every reader of the checkpoint expects."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def read_prompts(path: Path, limit: int = 512) -> list[str]:
    """The ``text`` of each line of a JSONL file, at most ``limit`` of them."""
    try:
        texts = [
            str(json.loads(line)["text"]) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{path} cannot be read as JSON lines with a `text` column ({error})") from error
    if not texts:
        raise BuildError(f"{path} holds no calibration prompt")
    return texts[:limit]


def _imports() -> tuple[Any, Any, Any, Any]:
    try:
        import modelopt.torch.export as export
        import modelopt.torch.quantization as quantization
        import torch
        import transformers
    except ImportError as error:
        raise BuildError(
            f"FP8 quantization needs nvidia-modelopt, torch and transformers ({error}): run it in the container, or "
            f"`pip install nvidia-modelopt==<the version in versions.toml>`"
        ) from error
    return torch, transformers, quantization, export


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m build_engine.modelopt_export", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="BF16 checkpoint directory")
    parser.add_argument("--output", type=Path, required=True, help="where the FP8 checkpoint goes")
    parser.add_argument("--calibration", type=Path, required=True, help="JSON lines with a `text` column")
    parser.add_argument("--size", type=int, default=512, help="prompts used (default %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=2048, help="tokens used of each prompt (default %(default)s)")
    parser.add_argument("--fp8-kv", action="store_true", help="FP8 KV scales too (known risky on Qwen2.5)")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        prompts = read_prompts(args.calibration, args.size)
        export_fp8(args.model, args.output, prompts, fp8_kv=args.fp8_kv, max_tokens=args.max_tokens)
    except BuildError as error:
        parser.exit(1, f"error: {error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
