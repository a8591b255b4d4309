"""A conversation in the terminal. It streams and times every answer; Ctrl-C stops the answer, not the program."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, TextIO

from client._clients import Client
from client._words import HELP, say
from client.errors import ClientError
from client.types import Options, StreamChunk
from contract.fields import BY_OPTION

_SETTABLE = {f.name: str(f.type) for f in fields(Options) if (option := BY_OPTION[f.name].option) and option.in_chat}
_ASSIGNED = re.compile(r"^(\w+)\s*=(?=\s*\S)")  # NAME=VALUE, as on the command line
CTRL_C_SECONDS = 0.02  # how often it is checked whether Ctrl-C was pressed
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a model's answer must not move the terminal's cursor


class Cancellable(Protocol):
    def cancel(self) -> None: ...


@dataclass
class Timing:
    """When chunks came, and what the engine counted."""

    sent: float = field(default_factory=time.perf_counter)
    first: float = 0.0
    last: float = 0.0
    chunk: StreamChunk = field(default_factory=lambda: StreamChunk(""))

    def add(self, chunk: StreamChunk) -> None:
        self.last = time.perf_counter()
        if not self.first and (chunk.text or chunk.token_ids):
            self.first = self.last
        self.chunk = chunk

    def line(self, how: str = "") -> str:
        """``TTFT 12 ms · 64.0 tokens/s · 20 tokens …``; the rate is that of decoding, without the first token."""
        if not self.first:
            return f"[{say('no token came')} · {how or self.chunk.finish_reason}]"
        tokens, took = self.chunk.completion_tokens, self.last - self.first
        rate = f" · {(tokens - 1) / took:.1f} tokens/s" if tokens > 1 and took > 0 else ""
        cached = f", {self.chunk.cached_tokens} {say('cached')}" if self.chunk.cached_tokens else ""
        return (
            f"[TTFT {(self.first - self.sent) * 1000:.0f} ms{rate} · {tokens} tokens"
            f" · {say('prompt')} {self.chunk.prompt_tokens}{cached}"
            f" · {how or self.chunk.finish_reason or say('cut off')}]"
        )


class Output(Protocol):
    """As much of a text stream as ``show`` writes to."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...

    def isatty(self) -> bool: ...


def printable(text: str, terminal: bool) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text) if terminal else text


def show(chunks: Iterable[StreamChunk], timing: Timing, out: Output) -> None:
    """Print text as it comes."""
    terminal = out.isatty()
    for chunk in chunks:
        timing.add(chunk)
        if chunk.text:
            out.write(printable(chunk.text, terminal))
            out.flush()


def setting(options: Options, name: str, value: str) -> Options:
    """Options with one setting changed. Raises ``ValueError`` with one clear sentence."""
    if name not in _SETTABLE:
        raise ValueError(f"no setting {name!r}; there are: {', '.join(sorted(_SETTABLE))}")
    if value in ("", "off"):
        return replace(options, **{name: getattr(Options(), name)})
    return replace(options, **{name: _typed(name, value)})


def _typed(name: str, value: str) -> Any:
    kind = _SETTABLE[name]
    if "str" in kind:
        return (value,) if "Sequence" in kind else value
    try:
        parsed = json.loads(value.lower())
    except ValueError:
        parsed = None
    allowed: tuple[type, ...] = (bool,) if "bool" in kind else (int, float) if "float" in kind else (int,)
    if "Sequence[int]" in kind and isinstance(parsed, list) and all(type(i) is int for i in parsed):
        return tuple(parsed)
    if type(parsed) not in allowed:
        raise ValueError(f"{name} takes {kind.removesuffix(' | None')}; {value!r} is not one")
    return parsed


class Chat:
    """One conversation. ``line`` takes what the user typed: a message, or a command that begins with ``/``.

    ``failed``: a message had no answer, or not all of it."""

    def __init__(self, client: Client, options: Options, system: str, out: TextIO, notes: TextIO) -> None:
        self._client, self._options, self._out, self._notes = client, options, out, notes
        self._system, self.failed = system, False
        self.messages: list[dict[str, str]] = []

    def line(self, text: str) -> None:
        text = text.strip()
        if text.startswith("/"):
            self._command(*_split(text[1:]))
        elif any("\ud800" <= character <= "\udfff" for character in text):  # bytes that Python could not decode
            self._fail("this line is not UTF-8 text; it was not sent")
        elif text:
            self._ask(text)

    def _fail(self, why: str) -> None:
        self.failed = True
        self._note(why)

    def _note(self, text: str) -> None:
        dim = ("\x1b[2m", "\x1b[0m") if self._notes.isatty() else ("", "")
        print(f"{dim[0]}{text}{dim[1]}", file=self._notes, flush=True)

    def _ask(self, text: str) -> None:
        head = [{"role": "system", "content": self._system}] if self._system else []
        self.messages.append({"role": "user", "content": text})
        timing, said, how = Timing(), _Tee(self._out), ""
        try:
            with self._client.stream(head + self.messages, self._options) as chunks, ctrl_c_cancels(chunks) as pressed:
                show(chunks, timing, said)
            how = say("stopped") if pressed.is_set() else ""
        except ClientError as error:
            self._out.write("\n" if said.text else "")
            self._fail(f"{error}")
            how = "failed"
        if said.text:
            self._out.write("\n")
            self.messages.append({"role": "assistant", "content": said.text})
        else:
            self.messages.pop()  # an unanswered question would be asked again with the next one
        if how != "failed":
            self._note(timing.line(how))

    def _command(self, name: str, rest: str) -> None:
        commands: dict[str, Callable[[str], str]] = {
            "help": lambda _: say(HELP), "reset": self._reset, "system": self._set_system, "set": self._set,
        }  # fmt: skip
        if name in ("quit", "exit", "bye"):
            raise EOFError
        command = commands.get(name)
        self._note(command(rest) if command else say("no command /{0}; /help lists them", name))

    def _reset(self, _: str) -> str:
        self.messages.clear()
        return say("new conversation")

    def _set_system(self, text: str) -> str:
        self._system = text
        return say("system prompt: {0}", text or say("the model’s own"))

    def _set(self, rest: str) -> str:
        name, value = _split(_ASSIGNED.sub(r"\1 ", rest))
        try:
            self._options = setting(self._options, name, value) if name else self._options
        except ValueError as error:
            return str(error)
        given = self._options.given()
        return ", ".join(f"{k}={v}" for k, v in given.items()) or say("all settings are the checkpoint's own")


def _split(text: str) -> tuple[str, str]:
    name, _, rest = text.partition(" ")
    return name, rest.strip()


class _Tee:
    """Passes text on and keeps a copy, so that a stopped answer stays in the conversation."""

    def __init__(self, out: TextIO) -> None:
        self._out, self.text = out, ""
        self.flush, self.isatty = out.flush, out.isatty

    def write(self, text: str) -> int:
        self.text += text
        return self._out.write(text)


@contextlib.contextmanager
def ctrl_c_cancels(stream: Cancellable) -> Iterator[threading.Event]:
    """Inside the ``with``, Ctrl-C sets the yielded event, and another thread cancels ``stream``. Main thread only.

    A ``KeyboardInterrupt`` raised inside gRPC's own code would break the channel for all later answers."""
    pressed, over = threading.Event(), threading.Event()

    def cancel() -> None:
        while not over.wait(CTRL_C_SECONDS):
            if pressed.is_set():
                stream.cancel()
                return

    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    threading.Thread(target=cancel, name="ctrl-c", daemon=True).start()
    try:
        yield pressed
    finally:
        over.set()
        signal.signal(signal.SIGINT, before)


def loop(chat: Chat, lines: TextIO) -> None:
    """Read lines until the end of input. Ctrl-C at the prompt clears the line."""
    terminal = lines.isatty() and sys.stdout.isatty()
    if isinstance(lines, io.TextIOWrapper):  # a line of other bytes must not end the conversation
        lines.reconfigure(encoding=None if terminal else "utf-8", errors="surrogateescape")
    if terminal:
        import readline  # noqa: F401  # gives input() history and editing
    while True:
        try:
            chat.line(input("> ") if terminal else _piped(lines))
        except KeyboardInterrupt:
            print(f"\n{say('(Ctrl-D leaves, /help lists commands)')}", file=sys.stderr)
        except EOFError:
            return


def _piped(lines: TextIO) -> str:
    line = lines.readline()
    if not line:
        raise EOFError
    return line
