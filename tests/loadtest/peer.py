"""Our figures beside NVIDIA's AIPerf: same gateway, same load, turn by turn in one run.

    python -m tests.loadtest.peer --url http://127.0.0.1:8080 --peer .venv-peers/bin/aiperf

Poisson arrivals at 3 requests/s, answers of 64 tokens, server-side token counts in both. (In a closed loop each tool
sends at its own moment of the engine's step, which alone moves the TTFT.) Writes results/loadtest_peer.json.
AIPerf's "inter token latency" is our TPOT: (latency − TTFT) / (tokens − 1). It wants an environment of its own:
``python -m venv .venv-peers && .venv-peers/bin/pip install aiperf==0.13.0``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadtest.environment import describe
from tests.loadtest.mock import loadtest

OUT = Path("results/loadtest_peer.json")
RATE, TOKENS, PROMPT = "3", "64", "64"
THEIRS = {"ttft": "time_to_first_token", "tpot": "inter_token_latency", "e2e": "request_latency"}


def theirs(args: argparse.Namespace, directory: Path) -> dict[str, float]:
    """Milliseconds by metric and percentile."""
    command = [args.peer, "profile", "--model", args.model, "--url", args.url, "--endpoint-type", "chat", "--streaming"]
    command += [
        "--request-rate",
        RATE,
        "--request-rate-mode",
        "poisson",
        "--request-count",
        "75",
        "--warmup-request-count",
        "4",
        "--ui",
        "none",
    ]
    command += ["--synthetic-input-tokens-mean", PROMPT, "--output-tokens-mean", TOKENS, "--use-server-token-count"]
    command += ["--extra-inputs", "ignore_eos:true", "--tokenizer", args.tokenizer, "--random-seed", "1"]
    subprocess.run([*command, "--output-artifact-dir", str(directory)], check=True, capture_output=True, timeout=300)
    found = json.loads((directory / "profile_export_aiperf.json").read_text(encoding="utf-8"))
    return {f"{m}_p{q}": float(found[name][f"p{q}"]) for m, name in THEIRS.items() for q in (50, 90)}


def ours(args: argparse.Namespace, directory: Path) -> dict[str, float]:
    url = urlsplit(args.url)
    options = ["--transport", "sse", "--host", str(url.hostname), "--gateway-port", str(url.port), "--scenario", "code"]
    options += ["--rate", RATE, "--output-tokens", TOKENS, "--input-tokens", PROMPT, "--language", "en"]
    run = loadtest(directory, *options, "--duration", "25s", "--warmup", "2s")
    latency = run.summary["total"]["latency"]
    return {f"{m}_p{q}": latency[m][f"p{q}"] * 1e3 for m in THEIRS for q in (50, 90)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--peer", default=".venv-peers/bin/aiperf")
    parser.add_argument("--model", default="qwen2.5-simulated")
    parser.add_argument("--tokenizer", default="engines/simulated")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    seen: dict[str, list[dict[str, float]]] = {"ours": [], "aiperf": []}
    with tempfile.TemporaryDirectory() as root:
        for k in range(args.rounds):
            seen["aiperf"].append(theirs(args, Path(root) / f"theirs{k}"))
            seen["ours"].append(ours(args, Path(root) / f"ours{k}"))
    rows = [row(name, seen) for name in seen["ours"][0]]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"environment": describe(), "rows": rows, "rounds": seen}, indent=1) + "\n")
    for one in rows:
        print(one)


def row(name: str, seen: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    a, b = (statistics.median(r[name] for r in seen[tool]) for tool in ("ours", "aiperf"))
    difference = round((a / b - 1) * 100, 2)
    return {"metric": name, "ours_ms": round(a, 2), "aiperf_ms": round(b, 2), "difference_percent": difference}


if __name__ == "__main__":
    main()
