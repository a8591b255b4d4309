"""vLLM's V2 sampler with ``candidates.choose`` in the place of its passes over the logits.

A sequence that keeps more than ``MOST_KEPT`` tokens is left to vLLM; the rest of its batch is not. A batch that is all
greedy and without penalties is left to vLLM too, which then needs only one pass itself. Bias, allowed tokens, bad words
and guides change the logits before this and stay with vLLM.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.worker.gpu.sample.sampler import Sampler

from serving.runtimes.vllm.candidates import MOST_KEPT, choose

log = logging.getLogger(f"vllm.{__name__}")  # vLLM sets up no other logger in its engine core


class OnePassSampler(Sampler):  # type: ignore[misc]
    def sample(
        self,
        logits: torch.Tensor,
        expanded_idx_mapping: torch.Tensor,
        idx_mapping_np: np.ndarray[Any, Any],
        pos: torch.Tensor,
        input_ids: torch.Tensor,
        expanded_local_pos: torch.Tensor,
        return_logprobs: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids [rows] and the logits, unchanged where ``return_logprobs`` says that they are read afterwards."""
        states, penalties = self.sampling_states, self.penalties_state
        greedy = states.temperature.np[idx_mapping_np] == 0.0
        kept = np.where(greedy, 1, states.top_k.np[idx_mapping_np])
        wide = kept > MOST_KEPT
        if (
            wide.all()
            or len(idx_mapping_np) != len(logits)  # drafts are among the rows
            or (greedy.all() and not penalties.use_penalty[idx_mapping_np].any())
            or not self.logprobs_mode.startswith("raw_")
            or self.use_fp64_gumbel
        ):
            return super().sample(  # type: ignore[no-any-return]
                logits, expanded_idx_mapping, idx_mapping_np, pos, input_ids, expanded_local_pos, return_logprobs
            )
        alone = None
        if wide.any():
            rows = async_tensor_h2d(np.flatnonzero(wide).tolist(), dtype=torch.int64, device=logits.device)
            alone, _ = super().sample(
                logits[rows], expanded_idx_mapping[rows], idx_mapping_np[wide], pos[rows], input_ids[rows],
                expanded_local_pos[rows],
            )  # fmt: skip
        if return_logprobs:
            logits = logits.clone()
        self.logit_bias_state.apply_logit_bias(logits, expanded_idx_mapping, idx_mapping_np, pos)
        self.bad_words_state.apply_bad_words(
            logits, expanded_idx_mapping, idx_mapping_np, input_ids, expanded_local_pos
        )
        chosen = choose(
            logits, expanded_idx_mapping, pos, states.temperature.gpu, states.top_k.gpu, states.top_p.gpu,
            states.min_p.gpu, penalties.repetition_penalty.gpu, penalties.frequency_penalty.gpu,
            penalties.presence_penalty.gpu, states.seeds.gpu, penalties.prompt_bin_mask, penalties.output_bin_counts,
            int(kept[~wide].max()),
        )  # fmt: skip
        if alone is not None:
            chosen[rows] = alone
        return chosen, logits


def install(runner: Any) -> None:
    """Give ``runner``, a loaded model runner, this sampler; the V1 runner and subclasses keep their own."""
    sampler = getattr(runner, "sampler", None)
    if type(sampler) is Sampler:
        sampler.__class__ = OnePassSampler
        log.info("sampling reads the logits once")
