"""The reference: the unquantized checkpoint in transformers, BF16 on a GPU, FP32 (more precise) on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from build_engine.verify.metrics import Position
from build_engine.verify.session import TOP, Sample
from contract.errors import BuildError

BATCH_TOKENS = 16_384  # answered side by side, padding included; 0.9 GB of KV for 7B in BF16


def batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indexes of ``lengths`` in groups of similar lengths, each of at most ``BATCH_TOKENS`` tokens once padded."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= BATCH_TOKENS:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


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
        found: list[list[int]] = [[]] * len(prompts)
        for seed, batch in enumerate(batches([len(prompt) + tokens for prompt in prompts])):
            self._torch.manual_seed(seed)
            for index, answer in zip(batch, self._answers([prompts[i] for i in batch], fixed), strict=True):
                found[index] = answer
        return found

    def _answers(self, prompts: Sequence[Sequence[int]], settings: dict[str, Any]) -> list[list[int]]:
        """Of prompts side by side, the shorter ones padded on the left, where attention does not look."""
        torch, width = self._torch, max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=self._device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._device)
        with torch.inference_mode():
            out = self._model.generate(ids, attention_mask=mask, pad_token_id=0, **settings)
        answers: list[list[int]] = out[:, width:].tolist()
        return answers

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
