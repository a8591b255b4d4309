"""The table of code words, and what survives of an error in Triton's one string."""

from __future__ import annotations

import pickle

import pytest

from contract.errors import (
    CODES,
    ClientError,
    ContextTooLong,
    DeadlineExceeded,
    DuplicateId,
    EngineUnavailable,
    InvalidRequest,
    Overloaded,
    ServingError,
    Unsupported,
    answered,
    from_wire,
    plain,
    to_wire,
)

ERRORS = [
    InvalidRequest("top_p", "2 is out of range; give a number between 0 and 1"),
    ContextTooLong("messages", "the prompt has 9 tokens; shorten it"),
    Unsupported("guided_decoding_guide_type json", "the loaded engine cannot honour it"),
    DuplicateId("same"),
    DeadlineExceeded(200_000, 37),
    Overloaded("queue: full (8 of 8 sequences); try again later"),
    EngineUnavailable("engine: out of pages"),
]


def classes(root: type[ClientError]) -> set[type[ClientError]]:
    return {root}.union(*(classes(kind) for kind in root.__subclasses__()))


def test_every_class_has_one_row_and_every_row_a_class() -> None:
    assert {row.kind for row in CODES.values()} == classes(ClientError) - {ClientError, ServingError}
    assert all(row.kind.code == word for word, row in CODES.items())


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: e.code)
def test_an_error_survives_tritons_string(error: ServingError) -> None:
    back = from_wire(f"in ensemble 'qwen', in ensemble 'inner', {to_wire(error)}")
    assert back is not None
    assert (type(back), str(back), back.code, back.field) == (type(error), str(error), error.code, error.field)


@pytest.mark.parametrize("error", [*ERRORS, answered("invalid_request", "no such field", "x", code="unknown_field")])
def test_an_error_survives_a_pipe(error: ServingError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.code, back.field) == (type(error), str(error), error.code, error.field)


@pytest.mark.parametrize("text", ["boom", "[x] boom", "[timeouts] boom", "say [queue_full] queue: full", ""])
def test_other_texts_are_nobodys_code(text: str) -> None:
    assert from_wire(text) is None


def test_plain_text_is_one_line_without_the_ensembles_prefix() -> None:
    assert plain("in ensemble 'qwen', a\n  b") == "a b"
