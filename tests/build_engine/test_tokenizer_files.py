"""The tokenizer built from ranks, against known ids, and the chat template's rendering."""

from __future__ import annotations

import base64
import itertools
import json
import sys
from pathlib import Path

import jinja2
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from build_engine import tokenizer_files
from build_engine.staging import cache_directory
from build_engine.synthetic import simulated
from contract import engine_dir
from contract.byte_alphabet import BYTES
from contract.errors import BuildError

TEXTS = [
    "你好，世界！今天天气不错。", "👩‍👩‍👧‍👦🎉 emoji 🇨🇳 ✨", "مرحبا بالعالم، كيف حالك؟",
    "def f(x):\n\treturn {'a': x**2}  # comment\r\n\n\n    if x<=10:", "don't WE'LL 12345 3.14",
    "<|im_start|>user\nhi<|im_end|>\n",
    "   lead and trail   ", "हिन्दी ภาษาไทย 日本語 한국어", "<tool_call>{}</tool_call>",
]  # fmt: skip


@pytest.fixture(scope="session")
def home() -> Path:
    return tokenizer_files.cached(cache_directory())


@pytest.fixture(scope="session")
def qwen(home: Path) -> Tokenizer:
    return Tokenizer.from_file(str(home / "tokenizer.json"))


def test_known_ids(qwen: Tokenizer) -> None:
    """Ids seen in the published Qwen2.5 tokenizer."""
    assert qwen.get_vocab_size() == tokenizer_files.TOKENIZER_SIZE
    assert qwen.encode("你好").ids == [108386]
    assert qwen.encode("Hello world").ids == [9707, 1879]
    assert [qwen.token_to_id(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")] == [151643, 151644, 151645]
    assert (qwen.token_to_id("<tool_call>"), qwen.token_to_id("<|file_sep|>")) == (151657, 151664)


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(qwen: Tokenizer, text: str) -> None:
    assert qwen.decode(qwen.encode(text).ids, skip_special_tokens=False) == text


@pytest.fixture(scope="session")
def ranks(home: Path) -> dict[bytes, int]:
    return tokenizer_files.parse_ranks((home.parent / "qwen.tiktoken").read_bytes())


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_encoding_is_byte_pair_encoding_by_rank(qwen: Tokenizer, ranks: dict[bytes, int], text: str) -> None:
    """The merges rebuilt from ranks give the segmentation of the rank rule itself, piece by piece."""
    assume("<|" not in text and "<tool" not in text and "</tool" not in text)  # added tokens are not byte pairs
    pieces = [piece for piece, _ in qwen.pre_tokenizer.pre_tokenize_str(qwen.normalizer.normalize_str(text))]
    expected = [i for p in pieces for i in by_rank(bytes(BYTES[c] for c in p), ranks)]
    assert qwen.encode(text).ids == expected


def by_rank(data: bytes, ranks: dict[bytes, int]) -> list[int]:
    parts = [data[i : i + 1] for i in range(len(data))]
    while True:
        found = [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]
        if not found:
            return [ranks[p] for p in parts]
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def render(messages: list[dict[str, object]], **more: object) -> str:
    env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    env.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return env.from_string(tokenizer_files.TEMPLATE.read_text()).render(
        messages=messages, add_generation_prompt=True, **more
    )


def test_default_system_prompt() -> None:
    assert render([{"role": "user", "content": "hi"}]) == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_tools_and_their_answers() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages: list[dict[str, object]] = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "content": "2"},
        {"role": "tool", "content": "3"},
    ]
    text = render(messages, tools=[{"type": "function", "function": {"name": "add"}}])
    assert text.startswith(
        "<|im_start|>system\nS\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        '{"type": "function", "function": {"name": "add"}}\n</tools>\n\nFor each function call, return a json object '
        "with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n<|im_start|>user\n1?'
    )
    one = '\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    assert text.endswith(
        f"<|im_start|>assistant{one}{one}<|im_end|>\n<|im_start|>user\n<tool_response>\n2\n</tool_response>\n"
        "<tool_response>\n3\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


def test_unreachable_index_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho 'ERROR: no network' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    with pytest.raises(BuildError, match=r"no network.*--model DIR"):
        tokenizer_files.cached(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("tokenizer-*"))


def test_damaged_ranks_are_refused() -> None:
    ranks = {bytes([b]): b for b in range(256)} | {b"abcd": 256}
    data = b"\n".join(base64.b64encode(t) + b" %d" % r for t, r in ranks.items())
    with pytest.raises(BuildError, match="has no merge"):
        tokenizer_files.tokenizer(tokenizer_files.parse_ranks(data))


def test_simulated_directory_is_complete(tmp_path: Path) -> None:
    simulated.write(tmp_path / "e", context=4096)
    simulated.write(tmp_path / "e", context=2048)
    engine = engine_dir.read(tmp_path / "e")
    assert (engine.runtime.name, engine.limits.max_seq_len, engine.model.vocab_size) == ("simulated", 2048, 152064)
    assert {*tokenizer_files.FILES, "config.json"} == set(engine.files)
    assert [p.name for p in tmp_path.iterdir()] == ["e"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    with pytest.raises(BuildError, match="not something this command wrote"):
        simulated.write(tmp_path / "mine")
