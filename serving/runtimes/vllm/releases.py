"""Which releases of vLLM the adapter runs on, and what one of them has to be told that others do by themselves.

The names that ``core.py`` uses are the same from 0.24 to 0.33 (tests/standins/vllm_surface_*.json, read from the
wheels); which releases ran where is in docs/gpu.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from contract.errors import EngineDirectoryError
from contract.versions import pinned, version_tuple

# Sampling on the V2 model runner keeps penalty counts on the GPU; V1 rebuilds them on the CPU at each step, a sixth to
# two fifths of the throughput at 256 streams under Qwen2.5's defaults (docs/benchmarks.md). vLLM chooses V2 for every
# dense model from 0.25 on (vllm/config/vllm.py, `_is_default_v2_model_runner_model`), but in 0.24 not for Qwen2.
V2_BY_DEFAULT = (0, 25)
V2_SWITCH = "VLLM_USE_V2_MODEL_RUNNER"
# Without it vLLM before 0.30 takes its weight-only FP8 kernels only on GPUs without FP8 arithmetic, whatever
# `linear_backend` says (vllm/model_executor/kernels/linear/scaled_mm/marlin.py); 0.30 and later no longer know it.
MARLIN_SWITCH, MARLIN_BY_NAME = "VLLM_TEST_FORCE_FP8_MARLIN", (0, 30)
# 0.25 to 0.27 let FlashInfer reduce over NVLink multicast on one host, and where there is none its kernels write to
# address 0: the start hangs a minute and ends in "Error Internal" of the next CUTLASS product. 0.24 chose this backend,
# which needs no multicast, and 0.28 looks first (vllm/distributed/device_communicators/flashinfer_all_reduce.py).
ALL_REDUCE_SWITCH, ALL_REDUCE = "VLLM_FLASHINFER_ALLREDUCE_BACKEND", "trtllm"
MULTICAST_ASSUMED = ((0, 25), (0, 28))
# Before, threads of the V2 runner's kernel overwrote logits that others had still to save: tokens outside the list came
# (https://github.com/vllm-project/vllm/pull/46245; the barriers are in 0.25.0's wheel, not in 0.24.0's).
ALLOWED_IDS_HOLD = (0, 25)
# Releases whose GPU worker takes our sampler and choice of FP8 kernels, which replace methods of theirs: 0.28 gave the
# sampler other parameters. Run on GPUs with 0.26; the choices of 0.24.0 and 0.27.1 were compared in Triton's
# interpreter.
OWN_KERNELS = ((0, 24), (0, 28))
OWN_WORKER = "serving.runtimes.vllm.worker.Worker"
# The release whose scheduler ours was compared with, request by request (tests/oracle/scheduler_reference.py).
OWN_SCHEDULER_FOR = (0, 26)
OWN_SCHEDULER = "serving.runtimes.vllm.scheduler.ShortcutScheduler"
# From so many cores on the model runner gets a process beside the scheduler's, as with several GPUs. In one process
# they take turns, and at 128 streams an H100 waits for them; a second one polls while there is work, for a core more.
CORES_FOR_TWO = 8


def check() -> tuple[int, ...]:
    """The installed release. Raises ``EngineDirectoryError`` with one line when it is missing or out of range."""
    install = "`make setup-vllm`"
    try:
        import vllm
    except ImportError as error:
        raise EngineDirectoryError(
            f"this engine runs on vLLM, which cannot be imported here ({error}): {install} on a GPU host, or choose "
            "another engine with ENGINE=<dir>"
        ) from error
    lowest, highest = pinned("vllm", "lowest"), pinned("vllm", "highest")
    release = version_tuple(vllm.__version__)
    if not version_tuple(lowest) <= release[:2] <= version_tuple(highest):
        raise EngineDirectoryError(
            f"vLLM {vllm.__version__} is installed, this runtime is for {lowest} to {highest}: {install}"
        )
    return release


def environment(release: tuple[int, ...], options: Mapping[str, Any], tensor_parallel: int) -> dict[str, str]:
    """Variables to set before the engine starts, unless the user has set them; ``options`` are the engine's own.

    An n-gram speculating engine runs on V1 until 0.30 (``_get_v2_model_runner_unsupported_features``)."""
    from vllm.platforms import current_platform

    marlin = options.get("linear_backend") == "marlin" and release[:2] < MARLIN_BY_NAME
    wanted = {MARLIN_SWITCH: "1"} if marlin else {}
    if release[:2] < V2_BY_DEFAULT and current_platform.is_cuda() and not options.get("speculative_config"):
        wanted[V2_SWITCH] = "1"
    return wanted | several_gpus(release, tensor_parallel)


def several_gpus(release: tuple[int, ...], tensor_parallel: int) -> dict[str, str]:
    """The part of ``environment`` that vLLM's own server needs too."""
    first, fixed = MULTICAST_ASSUMED
    return {ALL_REDUCE_SWITCH: ALL_REDUCE} if tensor_parallel > 1 and first <= release[:2] < fixed else {}


def own_kernels(release: tuple[int, ...]) -> dict[str, Any]:
    """Engine arguments that bring our kernels (``worker.py``) where the release and the machine take them.

    vLLM's cache of compiled graphs does not look at the worker, but at ``additional_config``."""
    from vllm.platforms import current_platform

    first, changed = OWN_KERNELS
    if not first <= release[:2] < changed or not current_platform.is_cuda():
        return {}
    return {"worker_cls": OWN_WORKER, "additional_config": {"worker": OWN_WORKER}}


def processes() -> dict[str, Any]:
    """Engine arguments that set the scheduler and the model runner apart where there are cores for both."""
    from vllm.platforms import current_platform

    apart = current_platform.is_cuda() and len(os.sched_getaffinity(0)) >= CORES_FOR_TWO
    return {"distributed_executor_backend": "mp"} if apart else {}


def lacking(release: tuple[int, ...]) -> frozenset[str]:
    """Capabilities that this release of vLLM does not have, or not on this machine.

    On CPUs a seeded request whose prompt is read in chunks ends the engine core ("CPU Generator does not use offset":
    ``Generator.set_offset`` in vllm/v1/worker/gpu_model_runner.py; seen with 0.24.0 and 0.32.0)."""
    from vllm.platforms import current_platform

    lacks = {"allowed_token_ids"} if release[:2] < ALLOWED_IDS_HOLD else set()
    return frozenset(lacks | ({"seed"} if current_platform.is_cpu() else set()))
