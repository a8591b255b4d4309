"""The two LLM classes. Signatures are bound from the surface: an unknown keyword is an error, as in the real thing."""

import itertools
import json
import os
import time
from pathlib import Path

from pydantic import ValidationError

from . import control
from ._executor import Executor
from ._result import RequestOutput
from ._surface import VERSION, declare, section, signature
from ._worker import Worker
from .llmapi import llm_args

SILENTLY_IGNORED = (
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "min_p",
    "bad_token_ids",
    "bad",
    "seed",
)


class RPCTimeout(Exception):
    """tensorrt_llm/executor/rpc: not a TimeoutError, not a RuntimeError."""


class _BaseLLM:
    args_class = None
    keeps_end = True

    def __init__(self, *positional, **keywords):
        bound = signature("LLM.__init__").bind(self, *positional, **keywords)
        values = {k: v for k, v in bound.arguments.items() if k not in ("self", "kwargs")}
        try:
            self.args = self.args_class(**values, **bound.arguments.get("kwargs", {}))
        except ValidationError as error:
            raise ValueError(f"LLM got invalid argument: {error.errors()[0]['loc'][0]}") from error
        self.has_tokenizer = not self.args.skip_tokenizer_init and self.args.tokenizer is not None
        assert not self.args.guided_decoding_backend or self.has_tokenizer, "guided decoding needs a tokenizer"
        self.max_seq_len = self.load()
        self.ids = itertools.count(2)
        self.executor = Executor(self.args.max_batch_size or 2048, self.keeps_end, self.entries())
        single = os.environ.get("TLLM_WORKER_USE_SINGLE_PROCESS") == "1"
        self.worker = Worker() if control.worker_process and not single else None
        self.seen = []
        control.llms.append(self)

    __init__.__signature__ = signature("LLM.__init__")

    def load(self):
        raise AssertionError("a subclass loads")

    def entries(self):
        """How many log probabilities a token gets at most."""
        return 1000

    def generate_async(self, *positional, **keywords):
        bound = signature("LLM.generate_async").bind(self, *positional, **keywords).arguments
        assert not positional, "positions differ between versions"
        control.requests.append(keywords)
        prompt, params = bound["inputs"], bound["sampling_params"]
        assert prompt and type(prompt[0]) is int, "token ids must be Python ints"
        assert all(params is not other for other in self.seen), (
            "SamplingParams is changed by TensorRT-LLM: never reuse it"
        )
        self.seen.append(params)
        params._return_log_probs = bool(params.logprobs)
        self.check(prompt, params)
        result = RequestOutput(next(self.ids), prompt, self.executor)
        if self.worker:
            self.worker.send(f"request {result.request_id}")
        self.executor.add(result, params)
        return result

    generate_async.__signature__ = signature("LLM.generate_async")

    def check(self, prompt, params):
        if params.end_id is None and not self.has_tokenizer:
            raise ValueError("end_id must be set when skip_tokenizer_init")
        if params.stop or (params.bad and params._bad_word_ids is None):
            raise RuntimeError("stop/bad words were not processed by a tokenizer")
        if params.guided_decoding is not None and not self.args.guided_decoding_backend:
            raise ValueError("guided decoding is not enabled")
        if self.executor.dead:
            raise RuntimeError("LLM is shutting down")

    def get_stats(self, timeout=2):
        time.sleep(control.stats_seconds)
        if control.stats_failures:
            control.stats_failures -= 1
            raise RPCTimeout("Request get_stats timed out")
        used = len(self.executor.requests) * 4
        kv = {"usedNumBlocks": used, "maxNumBlocks": 1000, "freeNumBlocks": 1000 - used, "tokensPerBlock": 32}
        record = {
            "iter": self.executor.iterations,
            "numActiveRequests": len(self.executor.requests),
            "kvCacheStats": kv,
        }
        known = section("stats keys")
        assert set(record) <= set(known["top"]) and set(kv) <= set(known["kvCacheStats"])
        return [record]

    def shutdown(self):
        control.shutdowns += 1
        self.executor.stopped = True


declare(_BaseLLM, "methods")


class TorchLLM(_BaseLLM):
    args_class = llm_args.TorchLlmArgs

    def load(self):
        assert (Path(self.args.model) / "config.json").is_file(), f"no checkpoint at {self.args.model}"
        return self.args.max_seq_len

    def entries(self):
        """``TRTLLMSampler`` gives the sampled token's and no other, whatever was asked for."""
        return 1 if VERSION == "1.2.1" and str(self.args.sampler_type) == "TRTLLMSampler" else 1000

    def check(self, prompt, params):
        super().check(prompt, params)
        if VERSION == "1.2.1" and str(self.args.sampler_type) != "TRTLLMSampler":
            control.unhonoured += [n for n in SILENTLY_IGNORED if getattr(params, n) is not None]
        if len(prompt) > self.args.max_num_tokens and not self.args.enable_chunked_prefill:
            raise ValueError("prompt is longer than max_num_tokens")


if VERSION != "1.2.1":
    TorchLLM._check_health = lambda self: control.healthy


class TrtLLM(_BaseLLM):
    args_class = getattr(llm_args, "TrtLlmArgs", None)
    keeps_end = False

    def load(self):
        engine = json.loads((Path(self.args.model) / "config.json").read_text())
        build = engine["build_config"]
        mapping = engine["pretrained_config"]["mapping"]
        if self.args.tensor_parallel_size not in (1, mapping["tp_size"]):
            raise ValueError("tensor_parallel_size differs from the engine's")
        if (self.args.max_batch_size or 0) > build["max_batch_size"]:
            raise RuntimeError(
                f"Runtime configured max batch size ({self.args.max_batch_size}) must not exceed engine max batch size "
                f"({build['max_batch_size']})"
            )
        assert self.args.kv_cache_config is None or self.args.kv_cache_config.dtype == "auto"
        return build["max_seq_len"]

    def check(self, prompt, params):
        super().check(prompt, params)
        if params.logprobs and not self.args.gather_generation_logits:
            raise ValueError("logprobs needs gather_generation_logits")
        if len(prompt) + params.max_tokens > self.max_seq_len and not self.args.enable_chunked_prefill:
            raise ValueError("prompt and max_tokens exceed max_seq_len")
