"""FP8 matrix products by the faster of vLLM's CUTLASS kernel and cuBLAS, as timed while the model is loaded.

On an H100 with 128 and 256 rows, cuBLAS takes 14 to 27 % less time than CUTLASS for Qwen2.5-7B's query, key and value,
output and down projections, and as much or more for its others (docs/benchmarks.md). Which one is faster depends on
shape, number of rows and GPU, so each shape of the model is timed at ``ROWS``.
"""

from __future__ import annotations

import bisect
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

import torch
from vllm import _custom_ops as ops
from vllm.model_executor.kernels.linear.scaled_mm.cutlass import CutlassFP8ScaledMMLinearKernel

ROWS = (64, 128, 256, 512, 1024, 2048)  # of a step; for any other number of rows the next larger one decides
GAIN = 0.97  # cuBLAS has to take less than this part of CUTLASS's time
REPEATS = 5
MATRICES = 28  # of one shape, multiplied in turn, so that none of them is still in the L2 cache

log = logging.getLogger(f"vllm.{__name__}")  # vLLM sets up no other logger in its engine core
_by_cublas: set[tuple[int, int, int]] = set()  # (columns, inner size, rows) of ``ROWS``


def _cutlass(
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    product: torch.Tensor = ops.cutlass_scaled_mm(
        a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=torch.bfloat16, bias=bias
    )
    return product


def _cublas(
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    return torch._scaled_mm(
        a, b, scale_a.view(()), scale_b.view(()), bias=bias, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def _gemm(
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    by_cublas = (b.shape[1], b.shape[0], _measured_rows(a.shape[0])) in _by_cublas
    return (_cublas if by_cublas else _cutlass)(a, b, scale_a, scale_b, bias)


@torch.library.custom_op("qwen_triton::fp8_gemm", mutates_args=())  # type: ignore[untyped-decorator]
def fp8_gemm(
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """``a`` [rows, inner] times ``b`` [inner, columns], both FP8 with one scale, in BF16, plus ``bias`` [columns]."""
    return _gemm(a, b, scale_a, scale_b, bias)


@fp8_gemm.register_fake  # type: ignore[untyped-decorator]
def _(
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    return a.new_empty((a.shape[0], b.shape[1]), dtype=torch.bfloat16)


def install() -> None:
    """Make vLLM's CUTLASS linear layers call ``fp8_gemm`` where it applies. Call this before the model is loaded."""
    cutlass = CutlassFP8ScaledMMLinearKernel.apply_scaled_mm

    def apply_scaled_mm(
        self: Any,
        *,
        A: torch.Tensor,
        B: torch.Tensor,
        out_dtype: torch.dtype,
        As: torch.Tensor,
        Bs: torch.Tensor,
        bias: torch.Tensor | None,
        output_shape: list[int],
    ) -> torch.Tensor:
        one_scale = As.numel() == 1 and Bs.numel() == 1
        if one_scale and out_dtype is torch.bfloat16 and A.shape[1] == B.shape[0] and output_shape[-1] == B.shape[1]:
            return fp8_gemm(A, B, As, Bs, bias).view(*output_shape)
        product: torch.Tensor = cutlass(
            self, A=A, B=B, out_dtype=out_dtype, As=As, Bs=Bs, bias=bias, output_shape=output_shape
        )
        return product

    CutlassFP8ScaledMMLinearKernel.apply_scaled_mm = apply_scaled_mm


def unwrap_lm_head(model: torch.nn.Module) -> None:
    """Make an FP8 ``lm_head`` call its two kernels directly.

    It lies outside vLLM's compiled graph, so the rounding of its input is compiled separately. With that and the
    dispatch of ``fp8_gemm``, the two kernels cost the CPU 0.8 ms in every step (under cProfile)."""
    kernel: Any = getattr(getattr(getattr(model, "lm_head", None), "quant_method", None), "fp8_linear", None)
    if type(kernel) is not CutlassFP8ScaledMMLinearKernel or not kernel.quant_fp8.static:
        return

    def apply_scaled_mm(
        *, A: torch.Tensor, B: torch.Tensor, out_dtype: torch.dtype, As: torch.Tensor, Bs: torch.Tensor,
        bias: torch.Tensor | None, output_shape: list[int],
    ) -> torch.Tensor:  # fmt: skip
        return _gemm(A, B, As, Bs, bias).view(*output_shape)

    head: Any = model.lm_head
    if kernel.config.out_dtype is torch.bfloat16 and head.weight_scale.numel() == 1:
        kernel.quant_fp8 = kernel.quant_fp8.forward_cuda
        kernel.apply_scaled_mm = apply_scaled_mm


def autotune(modules: Iterable[torch.nn.Module], most_rows: int) -> None:
    """Time both kernels on the FP8 matrices of ``modules``, for up to ``most_rows`` rows. Takes about a second."""
    began = time.monotonic()
    shapes: dict[tuple[int, ...], list[torch.Tensor]] = defaultdict(list)
    for module in modules:
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.dtype is not torch.float8_e4m3fn or weight.dim() != 2:
            continue
        if weight.stride(0) == 1:  # [inner, columns], as vLLM leaves it for CUTLASS
            shapes[tuple(weight.shape)].append(weight.data)
    for (inner, columns), matrices in shapes.items():
        for rows in ROWS[: bisect.bisect_left(ROWS, most_rows) + 1]:
            a = torch.ones(rows, inner, device=matrices[0].device).to(torch.float8_e4m3fn)
            scale = torch.ones(1, device=a.device)
            try:
                cutlass, cublas = (_seconds(kernel, a, scale, matrices[:MATRICES]) for kernel in (_cutlass, _cublas))
            except RuntimeError as error:  # a card or a shape that one of them does not know
                log.warning("FP8 GEMM %dx%d stays with CUTLASS: %s", inner, columns, error)
                break
            if cublas < GAIN * cutlass:
                _by_cublas.add((columns, inner, rows))
    chosen = ", ".join(f"{inner}x{columns} at {rows}" for columns, inner, rows in sorted(_by_cublas))
    log.info("FP8 GEMMs timed in %.1f s; by cuBLAS: %s", time.monotonic() - began, chosen or "none")


def _measured_rows(rows: int) -> int:
    """The entry of ``ROWS`` that decides for ``rows``; 0 for so few that CUTLASS is as good."""
    return 0 if rows < ROWS[0] else ROWS[min(bisect.bisect_left(ROWS, rows), len(ROWS) - 1)]


def _seconds(
    kernel: Callable[..., torch.Tensor], a: torch.Tensor, scale: torch.Tensor, matrices: list[torch.Tensor]
) -> float:
    """Median time of one pass over ``matrices``, from a CUDA graph, because launching takes longer than small GEMMs."""

    def once() -> None:
        for weight in matrices:
            kernel(a, weight, scale, scale, None)

    once()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    times = []
    for _ in range(REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return float(median(times[1:]))
