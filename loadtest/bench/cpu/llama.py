"""llama.cpp itself, through the C interface of its prebuilt library: no server and no binding around it.

``include/llama.h`` at v0.4.0, the release inside node-llama-cpp 3.21.1, has the functions and structures:
https://github.com/ggml-org/llama.cpp/blob/v0.4.0/include/llama.h. Defaults, but for sizes and threads: KV in FP16,
flash attention where it helps, weights repacked for the CPU. All streams are one batch, sampled greedily with numpy.
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import numpy as np

from loadtest.bench.cpu.figures import Figures, Workload, measured, report

LIBRARIES = "LLAMA_CPP_LIBRARIES"  # environment: the directory that holds them
CONTEXT = "n_ctx n_batch n_ubatch n_seq_max n_rs_seq n_outputs_max n_outputs_max_per_seq n_threads n_threads_batch"
int8_p, int32_p = ctypes.POINTER(ctypes.c_int8), ctypes.POINTER(ctypes.c_int32)


class ModelParams(ctypes.Structure):
    _fields_ = (("unused", ctypes.c_uint64 * 10),)


class ContextParams(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in CONTEXT.split()),
        ("enums", ctypes.c_int32 * 5), ("rope", ctypes.c_int32 * 8), ("callback", ctypes.c_void_p * 2),
        ("types", ctypes.c_int32 * 2), ("abort", ctypes.c_void_p * 2), ("flags", ctypes.c_bool * 6),
        ("samplers", ctypes.c_void_p), ("n_samplers", ctypes.c_size_t), ("other", ctypes.c_void_p),
    )  # fmt: skip


class Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", ctypes.c_int32), ("token", int32_p), ("embd", ctypes.c_void_p), ("pos", int32_p),
        ("n_seq_id", int32_p), ("seq_id", ctypes.POINTER(int32_p)), ("logits", int8_p),
    )  # fmt: skip


class Llama:
    """A loaded model. ``threads`` 0: as many as there are cores."""

    def __init__(self, directory: Path, model: str, threads: int) -> None:
        names = ("libggml-base.so*", "libggml.*so*", "libllama.*so*")
        libraries = [next(iter(sorted(directory.glob(name)))) for name in names]
        _, backends, self.c = [ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL) for path in libraries]
        self._quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        self.c.llama_log_set(self._quiet, None)
        backends.ggml_backend_load_all_from_path(str(directory).encode())
        self.c.llama_model_default_params.restype = ModelParams
        self.c.llama_context_default_params.restype = ContextParams
        self.c.llama_model_load_from_file.argtypes = [ctypes.c_char_p, ModelParams]
        self.c.llama_init_from_model.argtypes = [ctypes.c_void_p, ContextParams]
        self.c.llama_decode.argtypes = [ctypes.c_void_p, Batch]
        self.c.llama_get_logits.argtypes = self.c.llama_free.argtypes = [ctypes.c_void_p]
        self.c.llama_get_logits.restype = ctypes.POINTER(ctypes.c_float)
        for function in (self.c.llama_model_load_from_file, self.c.llama_init_from_model):
            function.restype = ctypes.c_void_p
        self.threads = threads or len(os.sched_getaffinity(0))
        self.model = self.c.llama_model_load_from_file(model.encode(), self.c.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {model}")

    def context(self, streams: int, tokens: int) -> int:
        """Room for ``tokens`` tokens in each of ``streams`` sequences."""
        params = self.c.llama_context_default_params()
        params.n_ctx = params.n_batch = streams * (-(-tokens // 256) * 256)
        params.n_seq_max = streams
        params.n_threads = params.n_threads_batch = self.threads
        return int(self.c.llama_init_from_model(self.model, params))

    def decode(self, context: int, rows: list[tuple[int, int, int, bool]], vocabulary: int) -> list[int]:
        """One batch of (token, position, sequence, is it sampled); the most likely token after each sampled row."""
        token, position, sequence, sampled = (list(column) for column in zip(*rows, strict=True))
        of = [ctypes.c_int32(number) for number in sequence]
        size = len(rows)
        batch = Batch(
            size, (ctypes.c_int32 * size)(*token), None, (ctypes.c_int32 * size)(*position),
            (ctypes.c_int32 * size)(*[1] * size), (int32_p * size)(*map(ctypes.pointer, of)),
            (ctypes.c_int8 * size)(*sampled),
        )  # fmt: skip
        if self.c.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode fails for {size} tokens")
        logits = np.ctypeslib.as_array(self.c.llama_get_logits(context), (sum(sampled), vocabulary))
        return [int(best) for best in logits.argmax(-1)]


def measure(model: str, load: Workload) -> list[Figures]:
    """``model`` is a GGUF file."""
    llama = Llama(Path(os.environ[LIBRARIES]), model, load.threads)

    def ask(prompts: list[list[int]], tokens: int) -> list[float]:
        length = len(prompts[0])
        context = llama.context(len(prompts), length + tokens)
        start, times = time.perf_counter(), []
        last = length - 1
        rows = [(token, at, n, at == last) for n, prompt in enumerate(prompts) for at, token in enumerate(prompt)]
        for number in range(tokens):
            chosen = llama.decode(context, rows, load.vocabulary)
            times.append(time.perf_counter() - start)
            if load.ends and chosen[0] in load.ends:
                break
            rows = [(token, length + number, n, True) for n, token in enumerate(chosen)]
        llama.c.llama_free(context)
        return times

    return measured(load, ask)


if __name__ == "__main__":
    report(measure)
