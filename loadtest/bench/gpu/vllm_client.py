"""A worker that runs ``vllm bench serve``, vLLM's own client, once per JSON line (a list of its arguments).

Its import takes longer than most runs, so it stays loaded. ``python -m loadtest.bench.gpu.vllm_client``
"""

from __future__ import annotations

import json
import sys
from typing import Any

from loadtest.bench.gpu.offline import claim_stdout


def results(arguments: list[str]) -> dict[str, Any]:
    from vllm.benchmarks.serve import add_cli_args, main
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    found: dict[str, Any] = main(parser.parse_args(arguments))
    return {key: value for key, value in found.items() if isinstance(value, (int, float, str))}


def main() -> None:
    reply = claim_stdout()
    for line in iter(sys.stdin.readline, ""):
        try:
            answer = results(json.loads(line))
        except Exception as error:  # noqa: BLE001 (whatever went wrong is this run's result)
            answer = {"error": f"{type(error).__name__}: {error}"}
        reply.write(json.dumps(answer) + "\n")
        reply.flush()


if __name__ == "__main__":
    main()
