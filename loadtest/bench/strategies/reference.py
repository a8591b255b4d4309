"""The model as ``transformers`` runs it, from a checkpoint directory or a GGUF file. Needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load(path: str, **options: Any) -> tuple[Any, str]:
    """The model in evaluation mode on the GPU if there is one, and the device's name."""
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    file = Path(path)
    if file.suffix == ".gguf":
        path, options = str(file.parent), options | {"gguf_file": file.name}
    return AutoModelForCausalLM.from_pretrained(path, **options).to(device).eval(), device
