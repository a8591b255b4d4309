"""An engine's tokenizer files: what is completed, and what is refused in one line."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from build_engine import tokenizer_check
from build_engine.gguf.header import Header
from build_engine.gguf.tokenizer import GgufTokenizer
from contract.errors import BuildError
from tests.build_engine.gguf import files
from tests.oracle import tiny

CONFIG = {"vocab_size": tiny.VOCAB, "bos_token_id": 0, "eos_token_id": 1}
GENERATION, SETTINGS = "generation_config.json", "tokenizer_config.json"
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    metadata = files.vocabulary() | {"tokenizer.chat_template": TEMPLATE}
    GgufTokenizer(Header((tmp_path / "m.gguf",), metadata, {})).write(tmp_path, 512)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def change(path: Path, **values: Any) -> None:
    data = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in data.items() if value != "gone"}))


def test_sampling_defaults_that_are_missing_are_the_configs(directory: Path) -> None:
    (directory / GENERATION).unlink()
    tokenizer_check.complete(directory, CONFIG)
    assert json.loads((directory / GENERATION).read_text()) == {"bos_token_id": 0, "eos_token_id": 1}


@pytest.mark.parametrize("token", ["</s>", {"content": "</s>", "special": True}])
def test_the_tokenizer_knows_the_end_where_the_model_does_not_say(directory: Path, token: Any) -> None:
    change(directory / GENERATION, eos_token_id="gone")
    change(directory / "config.json", eos_token_id="gone")
    change(directory / SETTINGS, eos_token=token)
    tokenizer_check.complete(directory, {"vocab_size": tiny.VOCAB})
    assert json.loads((directory / GENERATION).read_text())["eos_token_id"] == 1


def test_a_model_without_an_end_is_refused(directory: Path) -> None:
    change(directory / GENERATION, eos_token_id="gone")
    change(directory / SETTINGS, eos_token=None)
    with pytest.raises(BuildError, match="name the token that ends an answer"):
        tokenizer_check.complete(directory, {"vocab_size": tiny.VOCAB})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"eos_token_id": 9999}, "eos_token_id 9999 is not a token, ids lie between 0 and 511"),
        ({"eos_token_id": [1, -1]}, "eos_token_id -1"),
        ({"eos_token_id": "x"}, "eos_token_id 'x'"),
        ({"eos_token_id": True}, "eos_token_id True"),
        ({"eos_token_id": 1.5}, "eos_token_id 1.5"),
        ({"temperature": "hot"}, "temperature is 'hot', not a number from 0 to 2"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 50.5}, "top_k is 50.5"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
    ],
)
def test_defaults_that_no_request_could_ask_for_are_refused(directory: Path, value: Any, message: str) -> None:
    change(directory / GENERATION, **value)
    with pytest.raises(BuildError, match=f"generation_config.json: {message}"):
        tokenizer_check.complete(directory, CONFIG)


@pytest.mark.parametrize("name", ["tokenizer.json", SETTINGS, GENERATION])
@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": "\xff"}'])
def test_damaged_files_are_refused_by_name(directory: Path, name: str, content: bytes) -> None:
    (directory / name).write_bytes(content)
    with pytest.raises(BuildError, match=f"^{name} ") as refused:
        tokenizer_check.complete(directory, CONFIG)
    assert "\n" not in str(refused.value)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(directory: Path) -> None:
    with pytest.raises(BuildError, match=r"with id 511, the model's last id is 499: .* different checkpoints"):
        tokenizer_check.complete(directory, {**CONFIG, "vocab_size": 500})


@pytest.mark.parametrize(
    "template", ["{% if %}", "{{ raise_exception('no') }}", "{{ messages[0].content.foo() }}", 5, [{"template": "x"}]]
)
def test_a_template_that_renders_no_message_is_refused(directory: Path, template: Any) -> None:
    change(directory / SETTINGS, chat_template=template)
    with pytest.raises(BuildError, match="the chat template cannot render a user's message") as refused:
        tokenizer_check.complete(directory, CONFIG)
    assert "\n" not in str(refused.value)


def test_a_model_without_a_template_is_built_and_says_so(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(directory / SETTINGS, chat_template="gone")
    with caplog.at_level(logging.WARNING):
        tokenizer_check.complete(directory, CONFIG)
    assert "no chat template: the engine answers text_input" in caplog.text
