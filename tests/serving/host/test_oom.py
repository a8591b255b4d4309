"""What the kernel counts when memory runs out."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.host.oom import RAN_OUT, OomWatch


@pytest.mark.parametrize(
    ("cgroup", "counter"),
    [
        ("0::/docker/a\n", "sys/fs/cgroup/docker/a/memory.events"),
        ("0::/\n", "sys/fs/cgroup/memory.events"),
        ("9:cpu:/x\n4:memory:/docker/a\n", "sys/fs/cgroup/memory/docker/a/memory.oom_control"),
        ("4:memory:/docker/a\n", "sys/fs/cgroup/memory/memory.oom_control"),
        ("0::/\n", "proc/vmstat"),
    ],
)
def test_the_nearest_counter_tells(cgroup: str, counter: str, tmp_path: Path) -> None:
    for path, text in {
        "proc/vmstat": "oom_kill 7\n",
        counter: "oom 3\noom_kill 1\n",
        "proc/self/cgroup": cgroup,
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    watch = OomWatch(tmp_path)
    assert watch.ran_out() == ""
    (tmp_path / counter).write_text("oom 4\noom_kill 2\n")
    assert watch.ran_out() == RAN_OUT


def test_a_system_that_counts_none_says_nothing(tmp_path: Path) -> None:
    assert OomWatch(tmp_path).ran_out() == ""
