"""Threads that yield a lot get the processor again soon.

OpenVINO's threads (oneTBB's) call sched_yield while they wait for one another within a step. Linux 6.18, and 6.12 since
6.12.63, makes each call cost a thread the rest of its time slice (commit 79104becf42b, "sched/fair: Forfeit vruntime on
yield"). So beside other busy threads those of the engine hardly ran: 2 of 50 ms, seen while the gateway took 2,000
connections. Of a slice of 0.1 ms instead of some milliseconds there is little to lose. Linux takes a thread's own slice
since 6.12 (sched_setattr(2), ``sched_runtime`` of SCHED_OTHER); older ones ignore it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform

log = logging.getLogger("openvino")
SLICE_NS = 100_000  # the least that Linux takes
SYS_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}


class SchedAttr(ctypes.Structure):
    """``struct sched_attr`` of include/uapi/linux/sched/types.h, in its first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("sched_policy", ctypes.c_uint32),
        ("sched_flags", ctypes.c_uint64),
        ("sched_nice", ctypes.c_int32),
        ("sched_priority", ctypes.c_uint32),
        ("sched_runtime", ctypes.c_uint64),
        ("sched_deadline", ctypes.c_uint64),
        ("sched_period", ctypes.c_uint64),
    )


def shorten() -> None:
    """For the calling thread and those that it starts; nothing else about their scheduling changes."""
    number = SYS_SCHED_SETATTR.get(platform.machine())
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:  # somebody chose another policy
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = SchedAttr(ctypes.sizeof(SchedAttr), os.SCHED_OTHER, 0, nice, 0, SLICE_NS, 0, 0)
    if ctypes.CDLL(None, use_errno=True).syscall(number, 0, ctypes.byref(wanted), 0):
        log.info("time slices stay as they are: %s", os.strerror(ctypes.get_errno()))
