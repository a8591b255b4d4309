"""Which releases of vLLM the adapter runs on, and the settings that only some of them need.

The names that ``core.py`` uses are the same from 0.24 to 0.33 (tests/standins/vllm_surface_*.json, read from the
wheels); which releases ran where is in docs/gpu.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from contract.errors import EngineDirectoryError
from contract.versions import pinned, version_tuple

# The V2 model runner keeps penalty counts on the GPU; V1 rebuilds them on the CPU at each step, which costs a sixth to
# two fifths of the throughput at 256 streams with Qwen2.5's defaults (docs/benchmarks.md). From 0.25 on vLLM chooses V2
# for every dense model (vllm/config/vllm.py, `_is_default_v2_model_runner_model`), but 0.24 does not for Qwen2.
V2_BY_DEFAULT = (0, 25)
V2_SWITCH = "VLLM_USE_V2_MODEL_RUNNER"
# Before 0.30, vLLM uses its weight-only FP8 kernels without this switch only on GPUs that lack FP8 arithmetic, whatever
# `linear_backend` says (vllm/model_executor/kernels/linear/scaled_mm/marlin.py). From 0.30 on it does not exist.
MARLIN_SWITCH, MARLIN_BY_NAME = "VLLM_TEST_FORCE_FP8_MARLIN", (0, 30)
# On a single host 0.25 to 0.27 let FlashInfer reduce over NVLink multicast. Where there is none, its kernels write to
# address 0: the start hangs for a minute and then fails with "Error Internal" in the next CUTLASS product. 0.24 chose
# the backend named here, which needs no multicast; 0.28 checks first
# (vllm/distributed/device_communicators/flashinfer_all_reduce.py).
ALL_REDUCE_SWITCH, ALL_REDUCE = "VLLM_FLASHINFER_ALLREDUCE_BACKEND", "trtllm"
MULTICAST_ASSUMED = ((0, 25), (0, 28))
# In earlier releases, threads of the V2 runner's kernel overwrote logits that other threads had yet to save, so tokens
# outside the list came (https://github.com/vllm-project/vllm/pull/46245; 0.25.0's wheel has the barriers).
ALLOWED_IDS_HOLD = (0, 25)
# A reader of vLLM's shared-memory queue that pauses less than a second never looks at the socket that would wake it, so
# libzmq keeps 42 bytes for each message until somebody does: under load, engine core and model runner grew by 7 KiB/s
# each. From 0.33 on vLLM looks every two seconds (vllm/distributed/device_communicators/shm_broadcast.py).
WAKE_UPS_BOUNDED = (0, 33)
# Releases into whose GPU worker our sampler, attention and FP8 GEMMs fit. These replace methods of vLLM's, and 0.28
# gave the sampler other parameters. Run on GPUs with 0.26; the sampler's choices were compared with those of 0.24.0
# and 0.27.1 in Triton's interpreter.
OWN_KERNELS = ((0, 24), (0, 28))
OWN_WORKER = "serving.runtimes.vllm.worker.Worker"
# The release whose scheduler ours was compared with, request by request (tests/oracle/scheduler_reference.py).
OWN_SCHEDULER_FOR = (0, 26)
OWN_SCHEDULER = "serving.runtimes.vllm.scheduler.ShortcutScheduler"
# With at least this many cores the model runner gets a process of its own, as with several GPUs. In one process it
# takes turns with the scheduler, and at 128 streams an H100 waits for them. The second process polls while there is
# work, which takes one more core.
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
    """Engine arguments that install our kernels (``worker.py``) where the release and the machine allow it.

    ``additional_config`` is there for vLLM's cache of compiled graphs, whose key does not include the worker."""
    from vllm.platforms import current_platform

    first, changed = OWN_KERNELS
    if not first <= release[:2] < changed or not current_platform.is_cuda():
        return {}
    return {"worker_cls": OWN_WORKER, "additional_config": {"worker": OWN_WORKER}}


def bound_wake_ups() -> None:
    """In this process and those that it forks, each message read from vLLM's queues takes its wake-up with it."""
    import vllm

    if version_tuple(vllm.__version__)[:2] >= WAKE_UPS_BOUNDED:
        return
    import zmq
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

    record_read = SpinCondition.record_read

    def record_read_(self: Any) -> None:
        record_read(self)
        self.local_notify_socket.getsockopt(zmq.EVENTS)  # libzmq works off what it has kept

    SpinCondition.record_read = record_read_


def processes() -> dict[str, Any]:
    """Engine arguments that give the model runner a process of its own where there are enough cores."""
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
