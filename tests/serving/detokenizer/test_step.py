"""The detokenizer step: text, acknowledgements, stop marks, counts."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from contract import byte_alphabet
from contract.ack_table import AckTable
from contract.chunks import Chunk, IntArray, TextOptions, join, pack
from contract.finish import FINISH_CODES
from serving.detokenizer.step import Detokenizer
from serving.detokenizer.text import TokenBytes
from tests.serving.strategies import cuts, token_ids

LENGTH, STOP, CANCELLED = (FINISH_CODES.index(name) for name in ("length", "stop", "cancelled"))


def new_run(token_bytes: TokenBytes, directory: Path) -> Detokenizer:
    """For each of a test's examples: the table knows no owner of a slot."""
    table = AckTable.create(directory / "fresh", 64)
    return Detokenizer(token_bytes, lambda: table)


@pytest.fixture
def detokenizer(token_bytes: TokenBytes, ack_table: AckTable) -> Detokenizer:
    return Detokenizer(token_bytes, lambda: ack_table)


def chunk(
    ids: list[int], seq: int = 1, *, slot: int = 0, generation: int = 1, finish: int = 0, total: int | None = None,
    options: TextOptions | None = None, index: int = 0, log_probs: list[float] | None = None, tops: bytes = b"",
    ended: bool = False,
) -> IntArray:  # fmt: skip
    first = orjson.dumps(options or TextOptions()) if seq == 1 else b""
    total = len(ids) if total is None else total
    return pack(
        slot,
        generation,
        seq,
        index,
        5,
        total,
        2,
        finish,
        ids,
        log_probs or [],
        options=first,
        top_logprobs=tops,
        ended=ended,
    )


def one(detokenizer: Detokenizer, words: IntArray) -> Chunk:
    (done,) = detokenizer.process(words)
    return done


def letters(tokenizer: Tokenizer, text: str) -> list[int]:
    return [tokenizer.token_to_id(letter) for letter in text]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_interleaved_streams_keep_their_texts(
    data: st.DataObject, token_bytes: TokenBytes, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    detokenizer = new_run(token_bytes, tmp_path)
    generation = data.draw(st.integers(1, 2**20))
    streams = [data.draw(token_ids(tokenizer)) for _ in range(3)]
    queues = [[(slot, part) for part in data.draw(cuts(ids))] for slot, ids in enumerate(streams)]
    lengths = [len(queue) for queue in queues]
    texts, seqs = [""] * 3, [0] * 3
    for slot in data.draw(st.permutations([s for s, queue in enumerate(queues) for _ in queue])):
        _, ids = queues[slot].pop(0)
        seqs[slot] += 1
        finish = STOP if seqs[slot] == lengths[slot] else 0
        done = one(detokenizer, chunk(list(ids), seqs[slot], slot=slot, generation=generation, finish=finish))
        texts[slot] += done.text
        assert done.seq == seqs[slot] and done.finish == finish
    assert texts == [tokenizer.decode(ids, skip_special_tokens=True) for ids in streams]


@pytest.mark.parametrize("finish", [LENGTH, STOP])
def test_a_silent_request_shows_its_prompt_only(detokenizer: Detokenizer, tokenizer: Tokenizer, finish: int) -> None:
    """max_tokens = 0: engines make a token all the same."""
    options = TextOptions(echo="Hi", silent=True, log_probs=True)
    first = one(detokenizer, chunk([], options=options))
    last = one(detokenizer, chunk(letters(tokenizer, "x"), 2, finish=finish, log_probs=[-1.0], total=1))
    assert (first.text, last.text, last.ids, last.log_probs, last.completion_tokens) == ("Hi", "", [], [], 0)
    assert last.finish == LENGTH


def test_a_stop_string_across_chunks_is_trimmed_marked_and_counted(
    detokenizer: Detokenizer, tokenizer: Tokenizer, ack_table: AckTable
) -> None:
    ids = letters(tokenizer, "xaENDyz")
    first = one(detokenizer, chunk(ids[:3], options=TextOptions(stops=("END",))))
    assert (first.text, first.finish, ack_table.stopped(0, 1)) == ("xa", 0, False)
    second = one(detokenizer, chunk(ids[3:], 2, total=7))
    assert (second.text, second.finish, second.completion_tokens) == ("", 0, 5)
    assert second.ids == ids[3:5] and ack_table.stopped(0, 1)
    last = one(detokenizer, chunk([], 3, finish=CANCELLED, total=9))
    assert (last.text, last.finish, last.completion_tokens, last.ids) == ("", STOP, 5, [])


def test_an_end_token_after_the_stop_string_is_not_counted(detokenizer: Detokenizer, tokenizer: Tokenizer) -> None:
    """The engine counts its end token; the answer ended before."""
    part = chunk(letters(tokenizer, "aENDb"), finish=STOP, total=6, options=TextOptions(stops=("END",)))
    done = one(detokenizer, part)
    assert (done.text, done.finish, done.completion_tokens) == ("a", STOP, 4)


@pytest.mark.parametrize(("stops", "text", "kept"), [((), "aEN", 4), (("END",), "aEN", 4), (("EN",), "a", 3)])
def test_an_end_token_that_was_asked_for_has_no_text(
    detokenizer: Detokenizer, tokenizer: Tokenizer, stops: tuple[str, ...], text: str, kept: int
) -> None:
    """Here it is an ordinary token, D, as a caller may name one. Behind a stop string it is not of the answer."""
    ids = letters(tokenizer, "aEND")
    options = TextOptions(stops=stops, end_token=True, log_probs=True)
    done = one(detokenizer, chunk(ids, finish=STOP, options=options, log_probs=[-1.0] * 4, ended=True))
    assert (done.text, done.finish, done.completion_tokens, done.ids) == (text, STOP, kept, ids[:kept])
    assert (done.log_probs, done.ended) == ([-1.0] * kept, kept == 4)


def test_the_stop_string_can_be_kept(detokenizer: Detokenizer, tokenizer: Tokenizer) -> None:
    options = TextOptions(stops=("END",), include_stop=True)
    done = one(detokenizer, chunk(letters(tokenizer, "aENDb"), finish=LENGTH, options=options))
    assert (done.text, done.finish) == ("aEND", STOP)


def test_half_a_stop_string_at_the_end_is_shown(detokenizer: Detokenizer, tokenizer: Tokenizer) -> None:
    part = chunk(letters(tokenizer, "aEN"), finish=LENGTH, options=TextOptions(stops=("END",)))
    done = one(detokenizer, part)
    assert (done.text, done.finish, done.completion_tokens) == ("aEN", LENGTH, 3)


def test_log_probs_end_with_the_stop_string(detokenizer: Detokenizer, tokenizer: Tokenizer) -> None:
    tops = orjson.dumps([[[i, -0.5]] for i in range(5)])
    options = TextOptions(stops=("ND",), log_probs=True)
    ids = letters(tokenizer, "aENDb")
    done = one(detokenizer, chunk(ids, finish=LENGTH, options=options, log_probs=[-1.0] * 5, tops=tops))
    assert done.ids == ids[:4] and done.log_probs == [-1.0] * 4 and done.cum_log_prob == -4.0
    assert len(orjson.loads(done.top_logprobs)) == 4


def test_the_echoed_prompt_comes_once(detokenizer: Detokenizer, tokenizer: Tokenizer) -> None:
    first = one(detokenizer, chunk(letters(tokenizer, "b"), options=TextOptions(echo="Prompt: ")))
    second = one(detokenizer, chunk(letters(tokenizer, "c"), 2, finish=LENGTH, total=2))
    assert first.text + second.text == "Prompt: bc"


def test_a_slots_new_owner_inherits_nothing(
    detokenizer: Detokenizer, tokenizer: Tokenizer, ack_table: AckTable
) -> None:
    """Its last owner's client went away with a stop string half seen."""
    one(detokenizer, chunk(letters(tokenizer, "aEN"), options=TextOptions(stops=("END",))))
    done = one(detokenizer, chunk(letters(tokenizer, "D"), generation=2, finish=LENGTH))
    assert (done.text, done.finish) == ("D", LENGTH)
    assert ack_table.owner(0) == 2


def test_n_sequences_in_one_response(detokenizer: Detokenizer, tokenizer: Tokenizer) -> None:
    parts = [
        chunk(letters(tokenizer, text), slot=i, generation=i + 1, index=i, finish=LENGTH) for i, text in enumerate("ab")
    ]
    assert [(done.sequence_index, done.text) for done in detokenizer.process(join(parts))] == [(0, "a"), (1, "b")]


def test_the_answer_to_a_cancel_belongs_to_no_stream(detokenizer: Detokenizer) -> None:
    done = one(detokenizer, pack(-1, 0, 1, 0, 0, 0, 0, CANCELLED, []))
    assert (done.text, done.finish) == ("", CANCELLED)


@pytest.mark.parametrize(
    ("generation", "seq", "why"),
    [(4, 1, "next owner"), (5, 1, "where 2 was due"), (5, 3, "where 2 was due"), (6, 2, "next owner")],
    ids=["an old owner's", "sent again", "one left out", "not a first one"],
)
def test_a_chunk_that_is_not_due_changes_nothing(
    generation: int, seq: int, why: str, detokenizer: Detokenizer, tokenizer: Tokenizer, ack_table: AckTable
) -> None:
    one(detokenizer, chunk(letters(tokenizer, "a"), generation=5))
    with pytest.raises(ValueError, match=why):
        one(detokenizer, chunk(letters(tokenizer, "x"), seq, generation=generation))
    assert ack_table.owner(0) == 5
    assert one(detokenizer, chunk(letters(tokenizer, "b"), 2, generation=5, finish=LENGTH)).text == "b"


@pytest.mark.parametrize(("finish", "end"), [("length", ""), ("cancelled", ""), ("repetition", ""), ("stop", "\ufffd")])
def test_half_a_character_at_the_end_is_the_same_streamed_and_whole(
    detokenizer: Detokenizer, tokenizer: Tokenizer, finish: str, end: str
) -> None:
    """What a limit cut off is left out; what the model ended with itself is shown, as in the middle of a text."""
    ids = letters(tokenizer, "a") + [
        tokenizer.token_to_id(byte_alphabet.CHARACTERS[byte]) for byte in "世".encode()[:2]
    ]
    code = FINISH_CODES.index(finish)
    whole = one(detokenizer, chunk(ids, finish=code))
    last = len(ids)
    streamed = [one(detokenizer, chunk([i], n, slot=1, finish=code * (n == last))) for n, i in enumerate(ids, 1)]
    assert whole.text == "".join(part.text for part in streamed) == "a" + end
    assert whole.ids == [i for part in streamed for i in part.ids] == ids


def test_nothing_is_kept_of_finished_streams(detokenizer: Detokenizer, tokenizer: Tokenizer) -> None:
    for number in range(1, 200):
        one(detokenizer, chunk(letters(tokenizer, "a"), slot=number % 64, generation=number, finish=LENGTH))
    assert not detokenizer._states


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_resumed_sequence_sends_what_the_first_attempt_did_not(
    data: st.DataObject, token_bytes: TokenBytes, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Half a character, half a stop string and the stop string itself may lie on the break."""
    ids = data.draw(token_ids(tokenizer).filter(lambda ids: len(ids) > 1))
    at = data.draw(st.integers(1, len(ids) - 1))
    text = tokenizer.decode(ids, skip_special_tokens=True)
    begin = data.draw(st.integers(0, len(text)))
    stops = tuple(filter(None, [text[begin : begin + 3].replace("\ufffd", "")]))
    options = TextOptions(stops=stops, echo="the prompt")

    def run(first: list[int], rest: list[int], options: TextOptions) -> tuple[list[Chunk], Chunk]:
        detokenizer = new_run(token_bytes, tmp_path)
        parts = [one(detokenizer, chunk(first, options=options, total=len(options.resume_ids) + len(first)))]
        last = one(detokenizer, chunk(rest, 2, finish=LENGTH, total=len(ids)))
        return parts, last

    (head,), tail = run(ids[:at], ids[at:], options)
    resumed = TextOptions(stops=stops, echo="the prompt", resume_ids=tuple(ids[:at]))
    (nothing,), again = run([], ids[at:], resumed)
    assert nothing.text + again.text == tail.text and head.text.startswith("the prompt")
    assert (again.ids, again.finish, again.completion_tokens) == (tail.ids, tail.finish, tail.completion_tokens)
