"""``python -m client "prompt"``: one answer, streamed. Without a prompt: a chat, or the prompt from a pipe."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys

from client import chat, credentials
from client._clients import Client
from client._words import say
from client.credentials import Tls
from client.errors import ClientError
from client.types import NO_RETRY, Options, Retry
from contract import standard_streams

RETRY = Retry(patience=30.0)  # somebody sits before the terminal


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    default = os.environ.get("QWEN_ADDRESS") or f"127.0.0.1:{os.environ.get('GRPC_PORT') or 8001}"
    parser = argparse.ArgumentParser(prog="python -m client", description=__doc__)
    parser.add_argument("prompt", nargs="*", help="what to ask; `-` reads it from standard input")
    parser.add_argument(
        "--address",
        default=default,
        help="host:port of Triton's gRPC, or http://host:port of the gateway (%(default)s)",
    )
    parser.add_argument(
        "--api-key",
        help="default: for the gateway $OPENAI_API_KEY, for gRPC the first key of the file $TRITON_KEY_FILE",
    )
    for variable, what in credentials.VARIABLES.items():
        flag = f"--{variable.removeprefix('QWEN_').lower().replace('_', '-')}"
        parser.add_argument(flag, default=os.environ.get(variable, ""), metavar="FILE", help=f"{what} (${variable})")
    parser.add_argument("--system", default="", help="system prompt")
    parser.add_argument("--raw", action="store_true", help="send the prompt as text, without the chat template")
    parser.add_argument(
        "--chat", action="store_true", help="a conversation even when input is a pipe: one line, one turn"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a sampling setting, for example max_tokens=64"
    )
    parser.add_argument("--quiet", action="store_true", help="no timing line on standard error")
    return parser.parse_args(argv)


def options_of(pairs: list[str]) -> Options:
    options = Options()
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (equals and value.strip()):
            raise ValueError(f"--set {pair}: give NAME=VALUE, for example max_tokens=64")
        options = chat.setting(options, name.strip(), value.strip())
    return options


def client_of(args: argparse.Namespace) -> Client:
    """Raises ``ValueError`` with one clear sentence."""
    web = args.address.startswith(("http://", "https://"))
    key = args.api_key or (os.environ.get("OPENAI_API_KEY") if web else credentials.key_of())
    tls = Tls(args.tls_ca, args.tls_cert, args.tls_key)
    if tls == Tls() or args.address.startswith("http://"):  # plain HTTP works though QWEN_TLS_… are set for gRPC
        return Client(args.address, api_key=key, retry=RETRY)
    return Client(args.address, api_key=key, tls=tls, retry=RETRY)


def prompt_of(args: argparse.Namespace) -> str | None:
    """The one prompt to answer, or ``None`` for a conversation."""
    if args.chat:
        return None
    if args.prompt and args.prompt != ["-"]:
        return " ".join(args.prompt)
    return _piped() if args.prompt or not sys.stdin.isatty() else None


class NotText(ValueError):
    """Standard input is not UTF-8."""


def _piped() -> str:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")  # the locale's own may let any byte through
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        problem = f"standard input is not text: byte {error.start} is not UTF-8; convert it, for example with iconv"
        raise NotText(problem) from None


def once(client: Client, args: argparse.Namespace, options: Options, prompt: str) -> None:
    messages = [{"role": "user", "content": prompt}]
    if args.system:
        messages.insert(0, {"role": "system", "content": args.system})
    timing = chat.Timing()
    with client.stream(prompt if args.raw else messages, options) as chunks:
        chat.show(chunks, timing, sys.stdout)
    print(flush=True)
    if not args.quiet:
        print(timing.line(), file=sys.stderr)


def converse(client: Client, args: argparse.Namespace, options: Options) -> int:
    """The exit code: nobody reads along in a script, so there a message without its answer counts as failed."""
    talk = chat.Chat(client, options, args.system, sys.stdout, sys.stderr)
    for line in filter(None, [" ".join(args.prompt)]):
        talk.line(line)
    if sys.stdin.isatty():
        client.connect()
        greeting = "Talking to {0}. /help lists commands; Ctrl-C stops an answer, Ctrl-D leaves."
        print(say(greeting, args.address), file=sys.stderr)
    chat.loop(talk, sys.stdin)
    return int(talk.failed and not sys.stdin.isatty())


def main(argv: list[str] | None = None) -> int:
    # A parent that started us in the background leaves SIGINT ignored, and Ctrl-C would stop nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    standard_streams.lenient()
    args = arguments(argv)
    try:
        options, client = options_of(args.set), client_of(args)
    except ValueError as error:
        print(f"python -m client: {error}", file=sys.stderr)
        return 2
    with client:
        client.retry = NO_RETRY  # somebody is waiting: say at once what is wrong
        return _run(client, args, options)


def _discard_output() -> None:
    """What is still in Python's buffers would fail again when the interpreter ends."""
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(client: Client, args: argparse.Namespace, options: Options) -> int:
    try:
        prompt = prompt_of(args)
        if prompt is not None and not prompt.strip():
            print("python -m client: nothing to ask: the prompt is empty; write one or pipe it in", file=sys.stderr)
            return 2
        if prompt is None:
            return converse(client, args, options)
        once(client, args, options, prompt)
    except NotText as error:
        print(f"python -m client: {error}", file=sys.stderr)
        return 2
    except ClientError as error:
        print(f"python -m client: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n[{say('stopped')}]", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head`: the reader has what it wanted
        _discard_output()
        return 0
    except OSError as error:
        with contextlib.suppress(OSError):
            print(f"python -m client: the answer cannot be written ({error.strerror})", file=sys.stderr)
        _discard_output()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
