"""Stop strings: cut-independent, nothing leaks, nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.detokenizer.stops import StopMatcher
from tests.serving.strategies import cuts

LETTERS = st.text(alphabet="ab你", max_size=24)
STOPS = st.lists(st.text(alphabet="ab你", min_size=1, max_size=5), min_size=1, max_size=4)


def first_completed(text: str, stops: list[str]) -> tuple[int, str] | None:
    """By brute force: where the first stop string to be completed ends, the longest of those that end there."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return end, max(ending, key=len)
    return None


def run(matcher: StopMatcher, pieces: list[str]) -> str:
    shown = ""
    for piece in pieces:
        shown += matcher.push(piece)
        if matcher.matched:
            return shown
    return shown + matcher.flush()


@given(text=LETTERS, stops=STOPS, include=st.booleans(), data=st.data())
def test_every_cut_equals_brute_force(text: str, stops: list[str], include: bool, data: st.DataObject) -> None:
    found = first_completed(text, stops)
    expected = text if found is None else text[: found[0] if include else found[0] - len(found[1])]
    matcher = StopMatcher(stops, include)
    assert run(matcher, data.draw(cuts(text))) == expected
    assert matcher.matched == (found[1] if found else "")


@given(text=LETTERS, stops=STOPS, skipped=st.integers(0, 24), data=st.data())
@example(text="aab", stops=["ab"], skipped=2, data=None)
@example(text="ab你", stops=["ab", "ab你"], skipped=2, data=None)
def test_what_is_complete_within_skipped_text_does_not_count(
    text: str, stops: list[str], skipped: int, data: st.DataObject | None
) -> None:
    """A stop string that only begins there does, or it would be overrun for good."""
    ends = [end for end in range(skipped + 1, len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    stop = max((stop for stop in stops if text[: ends[0]].endswith(stop)), key=len) if ends else ""
    matcher = StopMatcher(stops)
    shown = "".join(matcher.skip(letter) for letter in text[:skipped])
    shown += run(matcher, data.draw(cuts(text[skipped:])) if data else [text[skipped:]])
    assert shown == (text[: ends[0] - len(stop)] if ends else text)
    assert matcher.matched == stop


@given(text=LETTERS, stops=STOPS)
@example(text="aab", stops=["ab"])
def test_what_is_shown_is_never_taken_back(text: str, stops: list[str]) -> None:
    """After every single character: what was shown so far begins the final text, and holds no more than needed."""
    matcher, shown = StopMatcher(stops), ""
    final = run(StopMatcher(stops), [text])
    for seen, letter in enumerate(text, 1):
        shown += matcher.push(letter)
        if matcher.matched:
            break
        assert final.startswith(shown)
        assert len(shown) + max(map(len, stops)) > seen
    assert final.startswith(shown)


@pytest.mark.parametrize(
    ("stops", "text", "shown"),
    [
        (["END"], "one EN", "one EN"),
        (["END"], "one END two", "one "),
        (["cd", "abcde"], "xabcdey", "xab"),  # the one completed first wins, though the other began earlier
        (["b", "ab"], "xab", "x"),  # both end there: the longer one
        (["\n\n"], "a\nb\n\nc", "a\nb"),
        (["。"], "你好。世界", "你好"),
    ],
)
def test_examples(stops: list[str], text: str, shown: str) -> None:
    for pieces in ([text], list(text)):
        assert run(StopMatcher(stops), pieces) == shown
