"""The terminal client as its user meets it: as a process, with pipes and with a real terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from client import Options
from client._words import CHINESE, say
from client.chat import printable, setting
from contract.paths import ROOT
from serving.host.ports import free_ports
from tests.client.fake_triton import FakeTriton


def run(fake: FakeTriton | str, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    address = fake if isinstance(fake, str) else fake.grpc
    command = [sys.executable, "-m", "client", "--address", address, *args]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=ROOT, timeout=30, check=False)


class Terminal:
    """``python -m client`` on a pseudo-terminal."""

    def __init__(self, address: str) -> None:
        self._fd, slave = pty.openpty()
        command = [sys.executable, "-m", "client", "--address", address]
        # not pty.fork(): the test process has gRPC's threads
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, start_new_session=True
        )
        os.close(slave)
        self.seen = ""

    def expect(self, text: str, seconds: float = 15) -> None:
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, f"{text!r} did not come; got {self.seen!r}"
            if select.select([self._fd], [], [], 0.1)[0]:
                self.seen += os.read(self._fd, 4096).decode(errors="replace")

    def type(self, text: str) -> None:
        self.seen = ""
        os.write(self._fd, text.encode())

    def interrupt(self) -> None:
        self.seen = ""
        self.process.send_signal(signal.SIGINT)

    def interrupt_until(self, text: str) -> None:
        """A Ctrl-C between readline's prompt and its wait for a key is noticed with the next one only."""
        self.interrupt()
        end = time.monotonic() + 15
        while text not in self.seen:
            assert time.monotonic() < end, f"{text!r} did not come; got {self.seen!r}"
            if select.select([self._fd], [], [], 1.0)[0]:
                self.seen += os.read(self._fd, 4096).decode(errors="replace")
            else:
                self.process.send_signal(signal.SIGINT)

    def leave(self) -> int:
        """A Ctrl-D that comes while readline answers a Ctrl-C is lost with the line it belongs to."""
        for _ in range(15):
            with contextlib.suppress(subprocess.TimeoutExpired, OSError):
                self.type("\x04")
                return self.process.wait(1)
        return self.process.wait(1)


def test_one_prompt_streams_and_is_timed(fake: FakeTriton) -> None:
    done = run(fake, "SAY", "hello there", "--set", "max_tokens=50")
    assert (done.returncode, done.stdout) == (0, "hello there\n")
    assert "TTFT" in done.stderr and "4 tokens" in done.stderr and "stop" in done.stderr
    assert '"role":"user"' in fake.requests[0]["messages"]


def test_a_piped_prompt_and_raw_text(fake: FakeTriton) -> None:
    assert run(fake, "--raw", "--quiet", stdin="SAY piped").stdout == "piped\n"
    assert fake.requests[0]["text_input"] == "SAY piped"


def test_piped_bytes_that_are_no_text_are_refused_in_one_line(fake: FakeTriton) -> None:
    command = [sys.executable, "-m", "client", "--address", fake.grpc, "-"]
    done = subprocess.run(command, input=b"ab\xff\xfe" * 999, capture_output=True, cwd=ROOT, timeout=30, check=False)
    said = b"python -m client: standard input is not text: byte 2 is not UTF-8; convert it, for example with iconv\n"
    assert (done.returncode, done.stderr) == (2, said) and fake.requests == []


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # as Python's locales have it
def test_a_conversation_survives_a_line_that_is_no_text_and_says_so_at_its_end(fake: FakeTriton, errors: str) -> None:
    command = [sys.executable, "-m", "client", "--quiet", "--address", fake.grpc, "--chat"]
    done = subprocess.run(
        command, input=b"SAY a\ncaf\xe9\nSAY b\n", capture_output=True, cwd=ROOT, timeout=30, check=False,
        env=os.environ | {"PYTHONIOENCODING": f"utf-8:{errors}"},
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (1, [b"a", b"b"])
    assert b"this line is not UTF-8 text; it was not sent\n" in done.stderr and b"Traceback" not in done.stderr


def test_a_conversation_at_a_terminal_survives_it_too(fake: FakeTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")  # readline's own
    terminal = Terminal(fake.grpc)
    terminal.expect("> ")
    os.write(terminal._fd, b"caf\xe9 \xff\xfe\n")
    terminal.expect("this line is not UTF-8 text")
    terminal.type("SAY still\n")
    terminal.expect("tokens")
    assert terminal.leave() == 0


def test_a_piped_conversation_without_a_server_fails() -> None:
    done = run("127.0.0.1:1", "--chat", stdin="Hi\n")
    assert done.returncode == 1 and "no server answers" in done.stderr


def test_settings_in_both_forms(fake: FakeTriton) -> None:
    lines = ("/set temperature=0.25", "/set top_k = 7", "/set stop a=b", "/set min_p 0.5", "/set min_p off", "/set x=1")
    done = run(fake, "--chat", stdin="\n".join([*lines, "SAY one"]) + "\n")
    (sent,) = fake.requests
    assert (sent["temperature"], sent["top_k"], sent["stop_words"]) == (0.25, 7, ["a=b"]) and "min_p" not in sent
    assert "no setting 'x'" in done.stderr


def test_a_piped_conversation_remembers(fake: FakeTriton) -> None:
    done = run(
        fake, "--chat", stdin="/system Be brief\n/set max_tokens 3\nSAY one\n/nonsense\nSAY two\n/quit\nSAY three\n"
    )
    assert done.stdout == "one\ntwo\n"
    assert "no command /nonsense" in done.stderr
    roles = [m["role"] for m in json.loads(fake.requests[1]["messages"])]
    assert roles == ["system", "user", "assistant", "user"]
    assert fake.requests[1]["max_tokens"] == 3


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--set", "temprature=1", "x"], 2, "no setting 'temprature'"),
        (["--set", "max_tokens=many", "x"], 2, "'many' is not one"),
        (["ERR invalid_request top_p: 2 is above 1"], 1, "top_p: 2 is above 1"),
    ],
)
def test_a_mistake_is_one_line(fake: FakeTriton, args: list[str], code: int, words: str) -> None:
    done = run(fake, *args)
    assert done.returncode == code
    assert words in done.stderr and done.stderr.count("\n") == 1


def test_no_server_is_one_line() -> None:
    done = run(f"127.0.0.1:{free_ports(1)[0]}", "hello")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "make serve" in done.stderr


def test_a_closed_pipe_is_no_error(fake: FakeTriton) -> None:
    line = f"{sys.executable} -m client --address {fake.grpc} --set max_tokens=500 hello | head -c 5"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=ROOT, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("w0 w1", "")
    fake.wait_free()


@pytest.mark.parametrize(
    ("line", "code", "out", "said"),
    [
        ("'SAY héllo' <&-", 0, "héllo", "TTFT"),
        ("<&-", 2, "", "nothing to ask: the prompt is empty"),
        ("'SAY a' >&-", 0, "", "TTFT"),
        ("'SAY a' 2>&-", 0, "a", ""),
        ("'SAY a' >/dev/full", 1, "", "the answer cannot be written (No space left on device)"),
        ("--chat 'SAY a' >/dev/full <&-", 1, "", "the answer cannot be written (No space left on device)"),
        ("'SAY a' 2>/dev/full", 1, "a", ""),
    ],
)
def test_closed_and_full_streams_are_no_traceback(fake: FakeTriton, line: str, code: int, out: str, said: str) -> None:
    command = f"{sys.executable} -W error -m client --address {fake.grpc} {line}"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, cwd=ROOT, timeout=30, check=False, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stdout.strip()) == (code, out)
    assert said in done.stderr and done.stderr.count("\n") <= 1


def test_a_terminal_without_the_characters_gets_question_marks(fake: FakeTriton) -> None:
    command = [sys.executable, "-m", "client", "--address", fake.grpc, "--quiet", "SAY héllo 世界"]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=30, check=False, env=ascii_only)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"h?llo ??\n", b"")


def test_ctrl_c_stops_the_answer_and_the_chat_goes_on(fake: FakeTriton) -> None:
    fake.step_ms = 20
    terminal = Terminal(fake.grpc)
    terminal.expect("> ")
    terminal.type("/set max_tokens 10000\n")
    terminal.expect("max_tokens=10000")
    terminal.type("count\n")
    terminal.expect("w5")
    terminal.interrupt()
    terminal.expect("stopped")
    fake.wait_free()
    terminal.type("SAY again\n")
    terminal.expect("stop]")
    terminal.expect("\n> ")
    terminal.interrupt_until("Ctrl-D leaves")
    terminal.expect("> ")
    assert terminal.leave() == 0


def test_settings_are_typed() -> None:
    options = setting(setting(Options(), "temperature", "0.5"), "stop", "END")
    assert options == Options(temperature=0.5, stop=("END",))
    assert setting(options, "temperature", "off") == Options(stop=("END",))
    assert setting(Options(), "stop_token_ids", "[1, 2]").stop_token_ids == (1, 2)
    assert setting(Options(), "ignore_eos", "true").ignore_eos is True
    with pytest.raises(ValueError, match="takes int"):
        setting(Options(), "top_k", "1.5")


def test_an_answer_cannot_move_the_cursor() -> None:
    assert "\x1b" not in printable("a\x1b[2Jb\n\tc", True)
    assert printable("a\n\tc", True) == "a\n\tc"
    assert printable("\x1b", False) == "\x1b", "a pipe gets the bytes as they are"


def test_a_chat_without_a_server_says_so_before_it_greets() -> None:
    terminal = Terminal("127.0.0.1:1")
    terminal.expect("no server answers at 127.0.0.1:1")
    assert terminal.process.wait(10) == 1 and "Talking to" not in terminal.seen


@pytest.mark.parametrize("name", list(CHINESE))
def test_a_translation_keeps_the_places_of_values(name: str) -> None:
    assert re.findall(r"\{\d\}", name) == re.findall(r"\{\d\}", CHINESE[name])


def test_the_chat_follows_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert say("no command /{0}; /help lists them", "x") == "没有命令 /x；输入 /help 查看"
    monkeypatch.setenv("LC_ALL", "C")
    assert say("no command /{0}; /help lists them", "x") == "no command /x; /help lists them"
