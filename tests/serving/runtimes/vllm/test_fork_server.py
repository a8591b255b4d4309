"""The engine core comes from a fork server that has imported what it needs, with this process's environment."""

from __future__ import annotations

import multiprocessing
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

from contract.paths import ROOT
from serving.runtimes.vllm import fork_server
from tests.waiting import until


def prepare() -> None:
    os.environ["PREPARED"] = f"after {os.environ['SET_LATER']}"


def core(out: str, was_imported: str) -> None:
    modules = was_imported in sys.modules  # before anything here could import it
    seen = [os.environ.get(name) for name in ("SET_LATER", "GONE", "PREPARED")]
    Path(out).write_text(f"{seen} {modules}")


def test_not_where_the_user_chose_vllms_own_way(monkeypatch):
    monkeypatch.setenv(fork_server.METHOD, "spawn")
    assert not fork_server.start()


def test_the_core_is_forked_with_the_environment_of_the_moment(monkeypatch, tmp_path):
    monkeypatch.delenv(fork_server.METHOD, raising=False)
    monkeypatch.setenv("GONE", "1")
    monkeypatch.setattr(fork_server, "PRELOADED", ("this_is_not_there", "colorsys"))
    assert fork_server.start() and os.environ[fork_server.METHOD] == "fork"
    monkeypatch.delenv("GONE")
    monkeypatch.setenv("SET_LATER", "yes")

    package, utils = ModuleType("vllm.v1.engine"), ModuleType("vllm.v1.engine.utils")
    package.utils = utils
    for name, module in {
        "vllm": ModuleType("vllm"),
        "vllm.v1": ModuleType("vllm.v1"),
        "vllm.v1.engine": package,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(fork_server.CoreProcess, "prepare", None)
    fork_server.use(prepare)
    out = tmp_path / "seen"
    process = utils.get_mp_context().Process(
        target=core, name="EngineCore", kwargs={"out": str(out), "was_imported": "colorsys"}
    )
    process.start()
    process.join(60)
    assert process.exitcode == 0 and process.pid != os.getpid()
    assert out.read_text() == "['yes', None, 'after yes'] True"


def test_a_core_that_dies_is_seen(monkeypatch):
    process = fork_server.CoreContext().Process(target=os._exit, name="EngineCore", kwargs={}, args=(3,))
    process.start()
    process.join(60)
    assert process.exitcode == 3


NAMES = ("engine core", "model runner")
OWNER = """
import sys, time
from serving.runtimes.vllm import fork_server
from tests.waiting import until
from tests.serving.runtimes.vllm.test_fork_server import sleeping_core
if __name__ == "__main__":
    fork_server.PRELOADED = ()
    fork_server.start()
    core = fork_server.CoreContext().Process(target=sleeping_core, name="core", kwargs={"out": sys.argv[1]})
    core.start()
    time.sleep(60)
"""


def sleeping_core(out: str) -> None:
    model_runner = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    model_runner.start()
    Path(out).with_suffix(".new").write_text(f"{os.getpid()} {model_runner.pid}")
    Path(out).with_suffix(".new").rename(out)
    time.sleep(60)


def test_a_core_that_still_loads_leaves_with_a_killed_owner_and_so_does_its_model_runner(tmp_path):
    script, out = tmp_path / "owner.py", tmp_path / "core.pid"
    script.write_text(OWNER)
    with tempfile.TemporaryDirectory() as short:  # for a socket in it; the killed owner cannot remove its own
        settings = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": short}
        with subprocess.Popen([sys.executable, script, out], env=settings) as owner:
            try:
                until(out.exists)
                handles = {
                    name: os.pidfd_open(int(pid)) for name, pid in zip(NAMES, out.read_text().split(), strict=True)
                }
            finally:
                owner.kill()
        for name, handle in handles.items():
            assert select.select([handle], [], [], 20)[0], f"the {name} outlived the owner"
            os.close(handle)
