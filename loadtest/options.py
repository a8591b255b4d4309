"""The command line, written once: for ``python -m loadtest`` and for plain ``locust -f loadtest/locustfile.py``."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any, NamedTuple

from loadtest import arrivals, lengths, slo
from loadtest.arguments import count, port
from loadtest.plan import TRANSPORTS
from loadtest.scenarios import FILES, SCENARIOS

MAX_WORKERS = 256


class RunOption(NamedTuple):
    flag: str
    default: str
    help: str  # without "%", which argparse wants doubled and the web form shows as it is
    choices: tuple[str, ...] | None = None
    advanced: bool = False  # left out of the web form


OPTIONS = (
    RunOption("--scenario", "chat", f"{', '.join(SCENARIOS)}, {FILES}"),
    RunOption("--transport", "grpc", "grpc (Triton), sse (OpenAI gateway), or both interleaved in one run", TRANSPORTS),
    RunOption("--rate", "", "requests per second; makes the loop open"),
    RunOption("--arrivals", "", f"{arrivals.HELP} (default: poisson with a rate, else closed)"),
    RunOption("--duration", "", "the measured window, after the warm-up (default: 60s, or with --requests no limit)"),
    RunOption("--requests", "", "end after so many measured requests; --duration then only bounds the time"),
    RunOption("--warmup", "5s", "sent before the window and left out of every figure"),
    RunOption("--drain", "30s", "how long streams may take to end after the window"),
    RunOption("--slo", "", f"limits: {slo.HELP}"),
    RunOption("--seed", "1", "the same seed sends the same requests at the same times"),
    RunOption("--language", "mixed", "prompts: en, zh or mixed"),
    RunOption("--input-tokens", "", f"what the user says each turn, in tokens: {lengths.HELP}"),
    RunOption("--output-tokens", "", f"answer length in tokens: {lengths.HELP}"),
    RunOption(
        "--respect-eos",
        "no",
        "yes: answers may end early; by default ignore_eos forces the length",
        ("yes", "no"),
        True,
    ),
    RunOption(
        "--stream", "yes", "no: one whole answer per request, to see what streaming is worth", ("yes", "no"), True
    ),
    RunOption("--timeout", "120s", "give up on a stream after this long", None, True),
    RunOption(
        "--model", "qwen", "Triton's model name; over sse one that the server lists (default: its first)", None, True
    ),
    RunOption("--grpc-port", "8001", "Triton's gRPC port", None, True),
    RunOption("--gateway-port", "8080", "the gateway's HTTP port", None, True),
    RunOption("--metrics-port", "8002", "Triton's metrics port, scraped during the run", None, True),
    RunOption("--out", "", "directory of the report (default: reports/loadtest-<time>)", None, True),
)


def add_options(parser: Any, *, locust: bool = False) -> None:
    """``parser`` is argparse's, or Locust's, which also makes the web form of them."""
    for option in OPTIONS:
        extra: dict[str, Any] = {"include_in_web_ui": not option.advanced} if locust else {}
        if option.choices:
            extra["choices"] = list(option.choices)
        parser.add_argument(option.flag, default=option.default, help=option.help, **extra)


def workers(text: str) -> int:
    value = count(text)
    if value > MAX_WORKERS:
        raise ArgumentTypeError(f"{value} is over {MAX_WORKERS} generator processes")
    return value


def run_parser(parser: ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="the server; https://NAME for TLS")
    parser.add_argument("--users", default="", help="closed loop: how many users (default 4)")
    parser.add_argument("--workers", type=workers, default=1, help="generator processes, at most 256 (default 1)")
    parser.add_argument("--ui", action="store_true", help="Locust's web UI with the Streaming tab instead of a run")
    parser.add_argument("--web-port", type=port, default=8089, help="where the web UI listens (127.0.0.1)")
    add_options(parser)
