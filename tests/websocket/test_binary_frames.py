"""The reader of frames where messages are binary, as on the Protobuf wire.

``test_frames.py`` has the rules that hold for both; here is what differs, and a reader of binary
messages beside one of texts.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from framing import (
    BINARY,
    CLOSE,
    CONTINUATION,
    INVALID,
    MAX_BYTES,
    PING,
    PONG,
    TEXT,
    VIOLATIONS,
    Invalid,
    bytewise,
    close_body,
    frame,
    header,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame
from websockets.streams import StreamReader

from fastimd.websocket.frames import BINARY as ACCEPTED
from fastimd.websocket.frames import (
    Close,
    Failure,
    FrameReader,
    Ping,
    binary_frame,
)

Event = str | bytes | Ping | Close | Failure
MASKS = st.binary(min_size=4, max_size=4)
BYTES = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda said, times: (said * times)[:40_000],
        st.binary(min_size=1, max_size=5),
        st.sampled_from([30, 62, 125, 126, 127, 1000, 40_000]),
    ),
)
FULL = bytes(range(256)) * (MAX_BYTES // 256)


def read(pieces: Iterable[bytes], max_bytes: int = MAX_BYTES) -> list[Event]:
    """What a new reader makes of pieces."""
    reader = FrameReader(max_bytes, ACCEPTED)
    return [event for piece in pieces for event in reader.feed(piece)]


def kinds(events: Iterable[Event]) -> list[tuple[type, Event]]:
    """Events to be compared: tuples of different types may be equal."""
    return [(type(event), event) for event in events]


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Bytes in pieces, some perhaps empty."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_binary_messages_are_read_however_they_are_cut(data: st.DataObject) -> None:
    """In frames and in pieces, with pings amid them; any bytes are a message."""
    stream, expected = b"", list[Event]()
    for said in data.draw(st.lists(BYTES, max_size=4)):
        pieces = data.draw(cut(said))
        for number, piece in enumerate(pieces):
            if data.draw(st.booleans()):
                stream += frame(PING, b"?") + frame(PONG, b"!")
                expected.append(Ping(b"?"))
            opcode, fin = CONTINUATION if number else BINARY, number == len(pieces) - 1
            stream += frame(opcode, piece, fin=fin, mask=data.draw(MASKS))
        expected.append(said)
    assert kinds(read(data.draw(cut(stream)), 1 << 24)) == kinds(expected)
    assert kinds(read([stream], 1 << 24)) == kinds(expected)


@pytest.mark.parametrize("bad", INVALID.values(), ids=INVALID)
def test_what_is_no_utf8_is_a_message(bad: Invalid) -> None:
    """In one frame or in many; in a close reason it is a failure here too."""
    said = bad.whole
    assert read([frame(BINARY, said)]) == [said]
    stream = frame(BINARY, said[:1], fin=False) + frame(CONTINUATION, said[1:])
    assert read([stream]) == read(bytewise(stream)) == [said]
    (failure,) = read([frame(CLOSE, close_body(1000, said))])
    assert isinstance(failure, Failure)
    assert failure.code == 1007


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"hello"),
        frame(TEXT, b""),
        frame(TEXT, b"hel", fin=False),
        header(TEXT, 2**40),
        frame(TEXT, b"\xff"),
    ],
)
def test_text_is_refused(data: bytes) -> None:
    """1003, whatever it says; what was said before counts."""
    said = frame(BINARY, b"before")
    for pieces in ([said + data], bytewise(said + data)):
        before, failure = read(pieces)
        assert before == b"before"
        assert failure == Failure(1003, "binary frames only")


@pytest.mark.parametrize("max_bytes", [1, 2, 125, 126, 65535, 65536])
def test_max_bytes_is_the_last_that_passes(max_bytes: int) -> None:
    """One byte more is 1009, with the header already, whatever the fragments before it."""
    said = FULL[:max_bytes]
    for begun in (0, 1, max_bytes):
        before = frame(BINARY, said[:begun], fin=False)
        assert read([before + frame(CONTINUATION, said[begun:])], max_bytes) == [said]
        assert read([frame(BINARY, said)], max_bytes) == [said]
        for data in (
            before + header(CONTINUATION, max_bytes + 1 - begun),
            header(BINARY, max_bytes + 1),
            header(BINARY, 2**63 - 1),
        ):
            (failure,) = read([data], max_bytes)
            assert isinstance(failure, Failure)
            assert failure.code == 1009


SAME = [
    name
    for name, (code, data) in VIOLATIONS.items()
    if code == 1002 and data[0] & 0x0F not in (TEXT, BINARY)
]
"""Violations that have nothing to do with what messages are."""


@pytest.mark.parametrize("violation", SAME)
def test_other_rules_are_the_same(violation: str) -> None:
    """For a reader of texts and one of binary messages, whole and byte by byte."""
    data = VIOLATIONS[violation][1]
    expected = kinds(FrameReader(MAX_BYTES).feed(data))
    assert kinds(read([data])) == kinds(read(bytewise(data))) == expected


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_alike_in_any_pieces(stream: bytes) -> None:
    """Nothing raises, and what comes out does not depend on how the bytes were cut."""
    assert kinds(read(bytewise(stream))) == kinds(read([stream]))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_binary_frame_is_what_another_parser_reads(size: int) -> None:
    """Unmasked, final, binary and of the right size."""
    payload = (FULL + b"\xff")[:size]
    stream = StreamReader()
    stream.feed_data(binary_frame(payload))
    stream.feed_eof()
    parse = Frame.parse(stream.read_exact, mask=False)
    with pytest.raises(StopIteration) as parsed:
        next(parse)
    read_back = parsed.value.value
    assert (read_back.opcode, read_back.fin, bytes(read_back.data)) == (BINARY, True, payload)
