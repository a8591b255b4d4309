"""Calibration prompts: enough, mixed, in chat form, in the layouts the tools read; a user's own data in any form."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from build_engine.calibration import datasets, evaluation
from build_engine.calibration.prompts import compose
from contract.errors import BuildError

PROMPTS = compose()


def test_512_different_prompts_always_the_same():
    assert len({prompt.text for prompt in PROMPTS}) == 512
    assert compose() == PROMPTS and compose(64) == PROMPTS[:64]
    with pytest.raises(ValueError, match="can be composed"):
        compose(100_000)


def test_kinds_and_languages_are_mixed():
    kinds = Counter(prompt.kind for prompt in PROMPTS)
    languages = Counter(prompt.language for prompt in PROMPTS)
    assert set(kinds) == {"question", "passage", "long", "code", "math"} and min(kinds.values()) >= 30
    assert languages["zh"] >= 100 and languages["en"] >= 100
    assert {"es", "fr", "de", "ja", "ko", "ru", "ar", "pt", "vi"} <= set(languages)
    assert {prompt.kind for prompt in PROMPTS[:16]} == set(kinds), "a short calibration must be mixed too"


def test_every_prompt_is_well_formed_chatml():
    turn = r"<\|im_start\|>(system|user|assistant)\n[^<]*(<(?!\|im_)[^<]*)*<\|im_end\|>\n"
    whole = re.compile(rf"({turn})+(<\|im_start\|>assistant\n)?")
    for prompt in PROMPTS:
        assert whole.fullmatch(prompt.text), prompt.text[:200]
        assert "{passage}" not in prompt.text and "{a}" not in prompt.text
    answered = sum(prompt.text.endswith("<|im_end|>\n") for prompt in PROMPTS)
    assert 0.2 < answered / len(PROMPTS) < 0.5


def test_both_layouts(tmp_path):
    datasets.write(tmp_path, ["one", "two\nlines 中文"])
    for folder, column in (("text", "text"), ("ccdv/cnn_dailymail", "article")):
        lines = (tmp_path / folder / "train.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines[:2]] == [{column: "one"}, {column: "two\nlines 中文"}]
        assert len(lines) == (2 if column == "text" else 512), "convert_checkpoint.py reads 512 rows, or IndexError"
        assert set(lines[2:]) <= set(lines[:2])
    card = (tmp_path / "ccdv" / "cnn_dailymail" / "README.md").read_text()
    assert 'config_name: "3.0.0"' in card and "split: train" in card


CHAT = {"messages": [{"role": "user", "content": "hi"}]}
ANSWERED = {"messages": [*CHAT["messages"], {"role": "assistant", "content": "hello"}]}


@pytest.mark.parametrize(
    ("name", "content", "count"),
    [
        ("a.jsonl", "\n".join(map(json.dumps, ["plain", {"text": "t"}, CHAT, ANSWERED])), 4),
        ("a.json", json.dumps([{"text": "t"}, CHAT]), 2),
        ("a.txt", "first paragraph\nstill first\n\nsecond\n\n\n", 2),
    ],
)
def test_a_users_own_prompts(tmp_path, name, content, count):
    (tmp_path / name).write_text(content)
    texts = datasets.read(tmp_path / name)
    assert len(texts) == count == len(datasets.read(tmp_path))
    assert all(text.startswith("<|im_start|>") for text in texts)


def test_chat_form_is_kept_and_an_answer_ends_the_text(tmp_path):
    ready = "<|im_start|>user\nx<|im_end|>\n"
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [{"text": ready}, CHAT, ANSWERED])))
    first, asked, answered = datasets.read(tmp_path / "a.jsonl")
    assert first == ready
    assert asked.endswith("<|im_start|>assistant\n") and answered.endswith("hello<|im_end|>\n")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"prompt": "x"}', "entry 1 has neither"),
        ("a.jsonl", '{"text": ', "not valid JSON"),
        ("a.json", "[]", "holds no prompt"),
        ("a.txt", " \n\n ", "holds no prompt"),
        ("a.csv", "x", "unknown kind"),
        ("a.jsonl", '{"messages": [{"content": "x"}]}', "neither"),
    ],
)
def test_wrong_prompts_are_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(BuildError, match=message):
        datasets.read(tmp_path / name)
    with pytest.raises(BuildError, match="cannot be read as UTF-8"):
        (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
        datasets.read(tmp_path / "b.txt")


def test_the_gate_asks_with_prompts_of_its_own():
    short = evaluation.short(40)
    assert len(short) == 40 == len(set(short)) and short == evaluation.short(40)
    assert all(text.endswith("<|im_start|>assistant\n") for text in short)


def test_long_documents_have_the_length_asked_for():
    texts = evaluation.long(3, 2000, lambda text: len(text) // 3)
    assert len(set(texts)) == 3
    assert all(1500 < len(text) // 3 <= 2100 for text in texts)
