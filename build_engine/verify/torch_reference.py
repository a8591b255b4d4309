"""The reference: the unquantized checkpoint in transformers, BF16 on a GPU, FP32 (more precise) on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from build_engine.verify.metrics import Position
from build_engine.verify.session import TOP, Sample
from contract.errors import BuildError


class TorchScorer:
    """Needs torch and transformers. Raises ``BuildError`` without them or when the checkpoint cannot be loaded."""

    def __init__(self, checkpoint: Path) -> None:
        try:
            import torch
            import transformers
        except ImportError as error:
            raise BuildError(
                f"a checkpoint as reference needs torch ({error}): `make setup-oracle` and repeat, or name an engine"
            ) from error
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        kind = torch.bfloat16 if self._device == "cuda" else torch.float32
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(str(checkpoint), torch_dtype=kind)
        except (OSError, ValueError, RuntimeError) as error:
            raise BuildError(f"{checkpoint} cannot be loaded by transformers ({str(error).splitlines()[0]})") from error
        self._model: Any = model.eval().to(self._device)
        self.path = checkpoint
        self.name = f"transformers {str(kind).removeprefix('torch.')} {checkpoint}"

    def close(self) -> None:
        """Free the memory: the candidate is loaded next."""
        self._model = None
        if self._device == "cuda":
            self._torch.cuda.empty_cache()

    def answer(self, prompts: Sequence[Sequence[int]], tokens: int, *, greedy: bool) -> list[list[int]]:
        choose = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": TOP, "top_p": 1.0}
        fixed = {"max_new_tokens": tokens, "min_new_tokens": tokens, "repetition_penalty": 1.0, **choose}
        return [self._answer(prompt, seed, fixed) for seed, prompt in enumerate(prompts)]

    def _answer(self, prompt: Sequence[int], seed: int, settings: dict[str, Any]) -> list[int]:
        torch = self._torch
        torch.manual_seed(seed)
        ids = torch.tensor([list(prompt)], device=self._device)
        with torch.inference_mode():
            out = self._model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        return [int(token) for token in out[0, len(prompt) :]]

    def score(self, samples: Sequence[Sample]) -> list[list[Position]]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> list[Position]:
        torch, count = self._torch, len(sample.target)
        ids = torch.tensor([[*sample.prompt, *sample.target[:-1]]], device=self._device)
        with torch.inference_mode():
            logits = self._model(ids, logits_to_keep=count).logits[0].float()
            best = torch.log_softmax(logits, dim=-1).topk(TOP, dim=-1)
        values, tokens = best.values.tolist(), best.indices.tolist()
        return [list(zip(line, probabilities, strict=True)) for line, probabilities in zip(tokens, values, strict=True)]
