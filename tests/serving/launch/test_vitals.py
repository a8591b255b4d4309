"""Silence becomes unready, then hung, for each sign of life; a launcher that did not run blames nobody."""

from __future__ import annotations

import http.server
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.ack_table import FILE_NAME, AckTable
from contract.heartbeat import MOST_PER_TURN, SUFFIX, Heartbeat
from serving.launch import vitals
from serving.launch.vitals import CANARY_SECONDS, HANG_SECONDS, UNREADY_SECONDS, Probe, Vitals


class Triton(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        self.server.generated.append(self.path)
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Quiet."""


class AnsweredProbe(Probe):
    """Returns when the answer is there: the launcher's seconds here are none of the fake's."""

    def send(self) -> None:
        super().send()
        assert self._socket is not None
        assert select.select([self._socket], [], [], 60)[0], "the fake Triton does not answer"


class Rig:
    def __init__(self, directory: Path) -> None:
        self.table = AckTable.create(directory / FILE_NAME, 4)
        self.beats = {name: Heartbeat.create(directory / f"{name}{SUFFIX}") for name in ("engine", "tokenizer")}
        self.triton = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Triton)
        self.triton.generated = []
        threading.Thread(target=self.triton.serve_forever, args=(0.01,), daemon=True).start()
        self.vitals = Vitals(directory, "127.0.0.1", self.triton.server_address[1])

    def live(self, seconds: float, *, without: str = "") -> None:
        """Turns of the launcher in which all beat but one."""
        for _ in range(int(seconds / MOST_PER_TURN) + 1):
            for name, beat in self.beats.items():
                if name != without:
                    beat.beat()
            self.vitals.look(MOST_PER_TURN)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(vitals, "Probe", AnsweredProbe)
    rig = Rig(tmp_path)
    yield rig
    rig.triton.shutdown()
    rig.triton.server_close()


def test_all_is_well_and_an_idle_server_is_asked_for_a_token(rig: Rig) -> None:
    rig.live(2 * CANARY_SECONDS + 2)
    assert rig.vitals.unready() == rig.vitals.hung() == ""
    assert rig.triton.generated[:2] == ["/v2/models/qwen/generate"] * 2


def test_a_busy_server_is_not_asked(rig: Rig) -> None:
    rig.table.open_sequences = 3
    rig.live(2 * CANARY_SECONDS)
    assert not rig.triton.generated


def test_a_silent_process_is_named(rig: Rig) -> None:
    rig.live(1)
    rig.live(UNREADY_SECONDS, without="tokenizer")
    assert rig.vitals.unready() == f"the tokenizer process has not run for {UNREADY_SECONDS:.0f} s"
    assert rig.vitals.hung() == ""
    rig.live(HANG_SECONDS - UNREADY_SECONDS, without="tokenizer")
    assert rig.vitals.hung().startswith("the tokenizer process has not run for ")
    rig.live(MOST_PER_TURN)
    assert rig.vitals.unready() == "", "it came back"


def test_a_silent_triton_is_named_though_it_stops_others(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.live(1)
    monkeypatch.setattr(AnsweredProbe, "send", Probe.send)
    rig.triton.shutdown()
    rig.live(HANG_SECONDS + 2, without="engine")
    assert rig.vitals.hung().startswith("the tritonserver process has not run")


def test_an_engine_without_steps_is_unready(rig: Rig) -> None:
    rig.table.stalled = 5
    rig.live(1)
    assert rig.vitals.unready() == "the engine has made no step for 5 s" and rig.vitals.hung() == ""


def test_a_launcher_that_slept_blames_nobody(rig: Rig) -> None:
    rig.live(1)
    rig.vitals.look(3600.0)
    assert rig.vitals.unready() == ""
