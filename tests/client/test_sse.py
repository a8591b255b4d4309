"""The one SSE reader: any cut of the bytes, every line ending, several data lines, comments, a stream cut short."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.sse import Events

TEXTS = st.lists(st.text(alphabet="ab {}世", max_size=5), max_size=6)


@given(texts=TEXTS, seed=st.integers(0, 2**32), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_events_survive_any_cut(texts: list[str], seed: int, end: str) -> None:
    raw = "".join(f": comment{end}data: {text}{end}{end}" for text in texts).encode() + b": more"
    cuts = sorted(random.Random(seed).randrange(len(raw) + 1) for _ in range(5))
    reader = Events()
    got = [e for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) for e in reader.feed(raw[a:b])]
    assert [e.decode() for e in got] == texts


@pytest.mark.parametrize(
    ("raw", "events"),
    [
        (b"data: a\ndata:b\n\n", [b"a\nb"]),
        (b"event: error\nid: 7\ndata: x\n\n", [b"x"]),
        (b"\n\n: keep-alive\n\ndata: y\n\n", [b"y"]),
        (b"data:  two spaces\n\n", [b" two spaces"]),
        (b"\xef\xbb\xbfdata: marked\n\n", [b"marked"]),
        (b"data: whole\n\ndata: cut", [b"whole"]),
        (b"data: whole\n\ndata: cut\n", [b"whole"]),
    ],
)
def test_fields_and_ends(raw: bytes, events: list[bytes]) -> None:
    assert list(Events().feed(raw)) == events
