"""An engine directory's tokenizer, template and sampling defaults: complete what may be missing, refuse what is wrong.

What is found here would otherwise be found by the server at start, or by a request.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from build_engine.tokenizer_files import dump
from contract.errors import BuildError
from serving.tokenizer.inputs import CheckpointDefaults

IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
SYNTHETIC_VOCABULARY = 2**31
log = logging.getLogger(__name__)


def complete(directory: Path, config: Mapping[str, Any]) -> None:
    """``config`` is the model's ``config.json``. Raises ``BuildError`` with one line that names the file.

    A synthetic model has Qwen2.5's tokenizer whatever its vocabulary: its ids may lie beyond it."""
    vocab_size = int(config["vocab_size"]) if not config.get("synthetic") else SYNTHETIC_VOCABULARY
    tokenizer = _tokenizer(directory, vocab_size)
    settings = read_object(directory / "tokenizer_config.json")
    defaults = directory / "generation_config.json"
    generation = (
        read_object(defaults) if defaults.is_file() else {k: config[k] for k in IDS if config.get(k) is not None}
    )
    if not _ends(generation, config):
        generation |= _end_of(settings, tokenizer)
    dump(generation, defaults)
    _check_defaults(directory, vocab_size)
    _check_template(directory)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ``BuildError`` when the file is missing or something else."""
    if not path.is_file():
        raise BuildError(f"the checkpoint has no {path.name}: copy the model's tokenizer files into its directory")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BuildError(f"{path.name} is not JSON ({error}): download it again") from error
    if not isinstance(found, dict):
        raise BuildError(f"{path.name} is not a JSON object: download it again")
    return found


def _tokenizer(directory: Path, vocab_size: int) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    except Exception as error:  # noqa: BLE001 - the library raises no narrower type
        raise BuildError(f"tokenizer.json cannot be read ({error}): download it again") from None
    text, highest = max(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda entry: entry[1])
    if highest >= vocab_size:
        raise BuildError(
            f"tokenizer.json has {text!r} with id {highest}, the model's last id is {vocab_size - 1}: "
            "tokenizer and weights belong to different checkpoints"
        )
    return tokenizer


def _ends(generation: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    return any(found.get("eos_token_id") not in (None, []) for found in (generation, config))


def _end_of(settings: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, int]:
    """The end of an answer as the tokenizer knows it, where the model does not say."""
    token = settings.get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    found = tokenizer.token_to_id(text) if isinstance(text, str) else None
    if found is None:
        raise BuildError(
            "no eos_token_id in generation_config.json or config.json, and no eos_token in tokenizer_config.json: name "
            "the token that ends an answer in one of them"
        )
    return {"eos_token_id": found}


def _check_defaults(directory: Path, vocab_size: int) -> None:
    for name in ("generation_config.json", "config.json"):
        found = read_object(directory / name).get("eos_token_id")
        for token in found if isinstance(found, list) else [] if found is None else [found]:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
                raise BuildError(
                    f"{name}: eos_token_id {token!r} is not a token, ids lie between 0 and {vocab_size - 1}: correct "
                    "it in the checkpoint"
                )
    try:
        CheckpointDefaults.load(directory / "generation_config.json", vocab_size).check()
    except ValueError as error:
        raise BuildError(f"generation_config.json: {error}: correct it in the checkpoint") from None


def _check_template(directory: Path) -> None:
    # Imported here: transformers takes seconds, and tells every user that there is no torch.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from serving.tokenizer.template import ChatTemplate

    try:
        template = ChatTemplate.load(directory, "the model")
        if template.exists:
            template.check()
    except Exception as error:  # noqa: BLE001 - a template may raise anything
        raise BuildError(
            f"the chat template cannot render a user's message ({type(error).__name__}: {error}): correct it in the "
            "checkpoint"
        ) from None
    if not template.exists:
        log.warning("the checkpoint has no chat template: the engine answers text_input, not messages")
