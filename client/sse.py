"""Server-sent events, read once for every program here: the client, the load test's gevent transport, the benchmarks.

Standard: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from collections.abc import Iterator


class Events:
    """Bytes of a stream in, the data of whole events out, whatever way the bytes were cut.

    Lines end in LF, CRLF or CR. Several ``data`` lines of one event are joined by LF; a byte order mark at the start,
    comments and other fields are skipped. An event that the stream's end cuts off is dropped, as the standard asks.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        raw = self._rest + data
        if b"\r" in raw:
            held = raw.endswith(b"\r")  # its LF may come with the next bytes
            raw = raw[: len(raw) - held].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + b"\r" * held
        *lines, self._rest = raw.split(b"\n")
        if lines and not self._begun:
            self._begun, lines[0] = True, lines[0].removeprefix(b"\xef\xbb\xbf")
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line and self._data:
                whole, self._data = b"\n".join(self._data), []
                yield whole
