"""The reader of WebSocket frames, fed with bytes; and beside the parser of another library."""

from __future__ import annotations

import gc
import logging
import tracemalloc
from collections.abc import Iterable
from itertools import product

import pytest
from framing import (
    AWKWARD,
    BINARY,
    CLOSE,
    CONTINUATION,
    FORBIDDEN_CODES,
    INVALID,
    LEGAL_CODES,
    MAX_BYTES,
    PING,
    PONG,
    REASONS,
    TEXT,
    TRUNCATED,
    VIOLATIONS,
    Invalid,
    bytewise,
    close_body,
    fragments,
    frame,
    header,
    masked,
    text,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER, Protocol, State
from websockets.streams import StreamReader

from fastimd.websocket.frames import (
    MAX_REASON_BYTES,
    Close,
    Failure,
    FrameReader,
    Ping,
    close_payload,
    control_frame,
    cut_reason,
    text_frame,
)

Event = str | bytes | Ping | Close | Failure
LONGEST = "x" * MAX_BYTES
FULL = LONGEST.encode()


def read(pieces: Iterable[bytes], max_bytes: int = MAX_BYTES) -> list[Event]:
    """What a new reader makes of pieces."""
    reader = FrameReader(max_bytes)
    return [event for piece in pieces for event in reader.feed(piece)]


def kinds(events: list[Event]) -> list[tuple[type, Event]]:
    """Events to be compared: tuples of different types may be equal."""
    return [(type(event), event) for event in events]


# --- violations


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_a_violation_is_a_failure(violation: str) -> None:
    """With its code and a reason that fits a close frame; what was said before counts."""
    code, data = VIOLATIONS[violation]
    *before, failure = read([fragments(b"be", b"fore") + frame(PING, b"?") + data])
    assert kinds(before) == kinds(["before", Ping(b"?")])
    assert isinstance(failure, Failure)
    assert failure.code == code
    assert len(failure.reason.encode()) <= 123


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_a_violation_is_the_same_byte_by_byte(violation: str) -> None:
    """Cut anyhow, the events are those of the whole."""
    data = VIOLATIONS[violation][1] + text("after")
    assert kinds(read(bytewise(data))) == kinds(read([data]))


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_nothing_comes_after_a_failure(violation: str) -> None:
    """In the same bytes or later."""
    reader = FrameReader(MAX_BYTES)
    after = text("after") + frame(PING, b"") + frame(CLOSE, close_body(1000))
    assert len(reader.feed(VIOLATIONS[violation][1] + after)) == 1
    assert reader.feed(after) == []
    assert reader.feed(b"") == []


@pytest.mark.parametrize("bad", INVALID.values(), ids=INVALID)
@pytest.mark.parametrize("opcode", [TEXT, CONTINUATION])
@pytest.mark.parametrize("fin", [True, False])
def test_invalid_text_fails_at_its_first_byte(bad: Invalid, opcode: int, fin: bool) -> None:
    """Not before, and not later, in any frame of a message, whole or not."""
    reader = FrameReader(MAX_BYTES)
    if opcode == CONTINUATION:
        assert reader.feed(frame(TEXT, b"begun ", fin=False)) == []
    said = masked(b"ok " + bad.whole)
    offending_at = 3 + len(bad.so_far)
    assert reader.feed(header(opcode, 100, fin=fin)) == []
    assert reader.feed(said[:offending_at]) == []
    (failure,) = reader.feed(said[offending_at : offending_at + 1])
    assert isinstance(failure, Failure)
    assert failure.code == 1007


@pytest.mark.parametrize("start", TRUNCATED.values(), ids=TRUNCATED)
def test_a_character_may_go_on_in_the_next_fragment(start: bytes) -> None:
    """A fragment that ends inside a character is no violation while another may come."""
    reader = FrameReader(MAX_BYTES)
    assert reader.feed(frame(TEXT, b"ok " + start, fin=False)) == []
    assert reader.feed(frame(CONTINUATION, b"", fin=False)) == []
    (failure,) = reader.feed(frame(CONTINUATION, b""))
    assert isinstance(failure, Failure)
    assert failure.code == 1007


@pytest.mark.parametrize("code", FORBIDDEN_CODES)
@pytest.mark.parametrize("begun", [b"", frame(TEXT, b"a", fin=False)], ids=["at rest", "amid"])
def test_codes_that_are_not_for_the_wire(code: int, begun: bytes) -> None:
    """With a reason or without, amid a message or not."""
    for reason in (b"", b"bye"):
        (failure,) = read([begun + frame(CLOSE, close_body(code, reason))])
        assert isinstance(failure, Failure)
        assert failure.code == 1002


def test_every_close_code() -> None:
    """Of all that two bytes can say, exactly the registered and the private ones are legal."""
    legal = {
        code
        for code in range(1 << 16)
        if isinstance(read([frame(CLOSE, close_body(code))])[0], Close)
    }
    assert legal == {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


def test_every_first_two_bytes() -> None:
    """Every bit of every header's beginning: only known, masked, unreserved ones may go on."""
    for first, second in product(range(256), repeat=2):
        opcode, size = first & 15, second & 127
        expected = {1003} if opcode == BINARY else set[int]()
        if (
            first & 0x70
            or opcode not in (TEXT, BINARY, CLOSE, PING, PONG)
            or second < 128
            or (opcode >= CLOSE and (first < 128 or size > 125))
        ):
            expected.add(1002)
        beginning = bytes((first, second))
        # What is certain already may yet be told with the rest of the header.
        events = read([beginning, bytes(12)] if expected else [beginning])
        codes = [event.code for event in events if isinstance(event, Failure)]
        assert len(codes) == len(events) == bool(expected), (beginning, events)
        assert expected.issuperset(codes), (beginning, events)


# --- what is legal

LEGAL: dict[str, tuple[bytes, list[Event]]] = {
    "nothing": (b"", []),
    "text": (text("hello"), ["hello"]),
    "empty text": (text(""), [""]),
    "awkward text": (text(AWKWARD), [AWKWARD]),
    "byte order mark": (text("\ufeffhello\ufeff"), ["\ufeffhello\ufeff"]),
    "texts": (text("a") + text("") + text("你"), ["a", "", "你"]),
    "two fragments": (fragments(b"a", b"b"), ["ab"]),
    "empty fragments": (fragments(b"", b"a", b"", b"", b"b", b""), ["ab"]),
    "nothing but empty fragments": (fragments(b"", b"", b""), [""]),
    "fragments of a byte": (fragments(*bytewise(AWKWARD.encode())), [AWKWARD]),
    "a message after one in fragments": (fragments(b"a", b"b") + text("c"), ["ab", "c"]),
    "two messages in fragments": (fragments(b"a", b"b") + fragments(b"c", b"d"), ["ab", "cd"]),
    "pings": (frame(PING) + frame(PING, b"\xff" * 125), [Ping(b""), Ping(b"\xff" * 125)]),
    "pongs": (frame(PONG) + frame(PONG, b"\xff" * 125), []),
    "control frames inside a character": (
        frame(TEXT, b"\xe4", fin=False)
        + frame(PING, b"\xbd")
        + frame(PONG, b"\xa0")
        + frame(CONTINUATION, b"\xbd", fin=False)
        + frame(PING, b"")
        + frame(CONTINUATION, b"\xa0"),
        [Ping(b"\xbd"), Ping(b""), "你"],
    ),
    **{
        f"{size} bytes of text": (frame(TEXT, FULL[:size]), [LONGEST[:size]])
        for size in (124, 125, 126, 127, 65534, 65535, MAX_BYTES)
    },
    "max_bytes in fragments, control frames amid": (
        frame(TEXT, FULL[:-1], fin=False)
        + frame(PING, b"p" * 125)
        + frame(PONG, b"p" * 125)
        + frame(CONTINUATION, b"x", fin=False)
        + frame(PING, b"q" * 125)
        + frame(CONTINUATION, b""),
        [Ping(b"p" * 125), Ping(b"q" * 125), LONGEST],
    ),
    "max_bytes again and again": (3 * frame(TEXT, FULL), [LONGEST, LONGEST, LONGEST]),
    **{
        f"close {code} with {name}": (
            frame(CLOSE, close_body(code, reason.encode())),
            [Close(code, reason, close_body(code, reason.encode()))],
        )
        for code in LEGAL_CODES
        for name, reason in REASONS.items()
    },
    "close amid a message": (
        frame(TEXT, FULL[:-1] + b"\xe4", fin=False) + frame(CLOSE, close_body(1000, b"x" * 123)),
        [Close(1000, "x" * 123, close_body(1000, b"x" * 123))],
    ),
    "text and close and text": (
        text("last") + frame(CLOSE, close_body(1001)) + text("late") + frame(PING, b""),
        ["last", Close(1001, "", close_body(1001))],
    ),
}


@pytest.mark.parametrize("case", LEGAL)
def test_what_is_legal_is_read(case: str) -> None:
    """Whole and byte by byte."""
    data, expected = LEGAL[case]
    assert kinds(read([data])) == kinds(expected)
    assert kinds(read(bytewise(data))) == kinds(expected)


@pytest.mark.parametrize("after", [b"", text("late"), frame(3), frame(CLOSE, b"")])
def test_a_close_frame_without_a_body(after: bytes) -> None:
    """It is legal, has an empty payload to echo, and is the last event."""
    reader = FrameReader(MAX_BYTES)
    (close,) = reader.feed(frame(CLOSE, b"") + after)
    assert isinstance(close, Close)
    assert (close.payload, close.reason) == (b"", "")
    assert reader.feed(text("later")) == []


@pytest.mark.parametrize("mask", [bytes(4), b"\xff" * 4, b"\x01\x02\x04\x08", b"\x00\x00\x00\x01"])
def test_any_mask(mask: bytes) -> None:
    """For payloads of any length modulo four, cut anywhere."""
    for size in range(13):
        said = "abcdefghijklm"[:size]
        data = frame(TEXT, said.encode(), mask=mask)
        for cut in range(len(data) + 1):
            assert read([data[:cut], data[cut:]]) == [said]


@pytest.mark.parametrize("max_bytes", [1, 2, 125, 126, 65535, 65536, 100_000])
def test_max_bytes_is_the_last_that_passes(max_bytes: int) -> None:
    """One byte more is 1009, with the header already, whatever the fragments before it."""
    for begun in (0, 1, max_bytes - 1, max_bytes):
        said = b"x" * max_bytes
        before = frame(TEXT, said[:begun], fin=False)
        assert read([before + frame(CONTINUATION, said[begun:])], max_bytes) == [said.decode()]
        assert read([frame(TEXT, said)], max_bytes) == [said.decode()]
        for data in (
            before + header(CONTINUATION, max_bytes + 1 - begun),
            before + header(CONTINUATION, max_bytes + 1 - begun, fin=False),
            header(TEXT, max_bytes + 1),
            frame(TEXT, said + b"x"),
        ):
            (failure,) = read([data], max_bytes)
            assert isinstance(failure, Failure)
            assert failure.code == 1009


def test_max_bytes_begins_anew_with_each_message() -> None:
    """What earlier messages had does not count, nor do control frames."""
    one = frame(TEXT, b"ab", fin=False) + frame(PING, b"x" * 125) + frame(CONTINUATION, b"cd")
    assert read([3 * one], 4) == 3 * [Ping(b"x" * 125), "abcd"]


# --- memory

SLACK = 32 * 1024
"""What an interpreter may take besides, whatever comes: free lists, caches."""


def growth_of(reader: FrameReader, pieces: Iterable[bytes]) -> tuple[int, int]:
    """Feed what gives no events; return bytes of memory that remain with the reader, and the most.

    The pieces are not counted, if they are made before.
    """
    gc.collect()
    tracemalloc.start()
    try:
        for piece in pieces:
            assert reader.feed(piece) == []
        gc.collect()
        return tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("said", ["x", "你", "😀"])
@pytest.mark.parametrize("size", [1, 3, 64])
def test_a_message_in_small_fragments_is_kept_small(said: str, size: int) -> None:
    """Unfinished and as large as it may be, it costs a few times its bytes, not its fragments."""
    payload = (said.encode() * MAX_BYTES)[: MAX_BYTES - 1]
    reader = FrameReader(MAX_BYTES)
    assert reader.feed(frame(TEXT, b"x", fin=False)) == []
    frames = [
        frame(CONTINUATION, payload[at : at + size], fin=False)
        for at in range(0, len(payload), size)
    ]
    pieces = [b"".join(frames[at : at + 500]) for at in range(0, len(frames), 500)]
    remains, most = growth_of(reader, pieces)
    assert remains < 4 * MAX_BYTES + SLACK
    assert most < 6 * MAX_BYTES + SLACK


@pytest.mark.parametrize("size", [1, 1000, 65536])
def test_a_frame_in_small_pieces_is_kept_small(size: int) -> None:
    """An unfinished frame costs a few times its bytes, however it comes."""
    reader = FrameReader(MAX_BYTES)
    data = frame(TEXT, b"x" * MAX_BYTES)[:-1]
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    remains, most = growth_of(reader, pieces)
    assert remains < 4 * MAX_BYTES + SLACK
    assert most < 6 * MAX_BYTES + SLACK


def test_a_large_frame_announced_takes_no_memory() -> None:
    """Not before its bytes come."""
    reader = FrameReader(1 << 24)
    remains, most = growth_of(reader, [header(TEXT, 1 << 24), b"x"])
    assert remains <= most < SLACK


@pytest.mark.parametrize(
    "endless",
    [
        frame(CONTINUATION, b"", fin=False),
        frame(PONG, b"x" * 125),
        frame(PONG, b""),
    ],
    ids=["empty fragments", "pongs", "empty pongs"],
)
def test_what_may_come_without_end_is_not_kept(endless: bytes) -> None:
    """Twenty thousand frames amid a message leave nothing behind."""
    reader = FrameReader(MAX_BYTES)
    assert reader.feed(frame(TEXT, b"a", fin=False)) == []
    remains, most = growth_of(reader, 40 * [endless * 500])
    assert remains < SLACK
    assert most < SLACK + 2 * 500 * len(endless)
    assert reader.feed(frame(CONTINUATION, b"b")) == ["ab"]


@pytest.mark.parametrize("violation", ["binary", "a byte too many", "opcode 3", "FF, alone"])
def test_after_a_failure_nothing_is_kept(violation: str) -> None:
    """Nor what was begun before it."""
    reader = FrameReader(MAX_BYTES)
    reader.feed(VIOLATIONS[violation][1])
    remains, most = growth_of(reader, 1000 * [FULL])
    assert remains <= most < SLACK


def test_what_has_been_read_is_not_kept() -> None:
    """After many large messages a reader is as small as before."""
    reader = FrameReader(MAX_BYTES)
    large = fragments(FULL[:40_000], FULL[40_000:])
    reader.feed(large)
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(50):
            assert len(reader.feed(large + large[:9])) == 1
            assert len(reader.feed(large[9:])) == 1
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < SLACK
    finally:
        tracemalloc.stop()


# --- beside the parser of the websockets library

LIBRARY_LOG = logging.getLogger("tests.websockets")
LIBRARY_LOG.setLevel(logging.CRITICAL)


def read_by_library(data: bytes) -> tuple[list[Event], bool]:
    """What websockets makes of the bytes, and whether it has nothing against them.

    It checks UTF-8 in close reasons only, so that of messages is checked here.
    """
    protocol = Protocol(SERVER, state=State.OPEN, max_size=None, logger=LIBRARY_LOG)
    protocol.receive_data(data)
    events: list[Event] = []
    payload = b""
    for each in protocol.events_received():
        assert isinstance(each, Frame)
        if each.opcode is Opcode.PING:
            events.append(Ping(bytes(each.data)))
        elif each.opcode is Opcode.CLOSE:
            assert protocol.close_rcvd is not None
            code, reason = int(protocol.close_rcvd.code), protocol.close_rcvd.reason
            events.append(Close(code, reason, bytes(each.data)))
        elif each.opcode is not Opcode.PONG:
            payload += bytes(each.data)
            if each.fin:
                try:
                    events.append(payload.decode())
                except UnicodeDecodeError:
                    return events, False
                payload = b""
    return events, protocol.parser_exc is None


MASKS = st.binary(min_size=4, max_size=4)
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.builds(
        lambda said, times: (said * times)[:40_000],
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=5),
        st.sampled_from([30, 62, 125, 126, 127, 1000, 40_000]),
    ),
)
CONTROL = st.binary(max_size=125)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Bytes in pieces, some perhaps empty."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@st.composite
def asides(draw: st.DrawFn) -> tuple[bytes, list[Event]]:
    """Pings and pongs, and the events of them."""
    data, events = b"", list[Event]()
    for payload in draw(st.lists(CONTROL, max_size=2)):
        opcode = draw(st.sampled_from((PING, PONG)))
        data += frame(opcode, payload, mask=draw(MASKS))
        if opcode == PING:
            events.append(Ping(payload))
    return data, events


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[Event]]:
    """A valid stream of frames, and the events of it."""
    data, events = b"", list[Event]()
    for said in draw(st.lists(TEXTS, max_size=4)):
        pieces = draw(cut(said.encode()))
        for number, piece in enumerate(pieces):
            aside, pings = draw(asides())
            opcode = CONTINUATION if number else TEXT
            fin = number == len(pieces) - 1
            data += aside + frame(opcode, piece, fin=fin, mask=draw(MASKS))
            events += pings
        events.append(said)
    aside, pings = draw(asides())
    data += aside
    events += pings
    if draw(st.booleans()):
        code = draw(st.sampled_from(LEGAL_CODES))
        reason = draw(st.text(st.characters(codec="utf-8"), max_size=30))
        body = close_body(code, reason.encode())
        data += frame(CLOSE, body, mask=draw(MASKS)) + draw(st.binary(max_size=20))
        events.append(Close(code, reason, body))
    return data, events


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A stream of frames in which some bytes are not what they were."""
    data = bytearray(draw(streams())[0] or text("hello"))
    for _ in range(draw(st.integers(1, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


ANYTHING = st.one_of(damaged(), st.binary(max_size=200))

thoroughly = settings(
    max_examples=200,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@given(st.data())
@thoroughly
def test_a_valid_stream_is_read_alike(data: st.DataObject) -> None:
    """Cut at random places it gives what went in, as the library says, too."""
    stream, expected = data.draw(streams())
    by_library, is_valid = read_by_library(stream)
    assert is_valid
    assert kinds(by_library) == kinds(expected)
    assert kinds(read(data.draw(cut(stream)), 1 << 24)) == kinds(expected)


@given(st.data())
@thoroughly
def test_any_bytes_are_read_alike_in_any_pieces(data: st.DataObject) -> None:
    """Nothing raises, and what comes out does not depend on how the bytes were cut."""
    stream = data.draw(ANYTHING)
    whole = kinds(read([stream]))
    assert kinds(read(data.draw(cut(stream)))) == whole
    assert kinds(read(bytewise(stream))) == whole


@given(ANYTHING)
@thoroughly
def test_the_reader_is_at_least_as_strict_as_the_library(stream: bytes) -> None:
    """It gives the library's events, up to a failure; and what the library refuses is one."""
    events = read([stream], 1 << 24)
    by_library, is_valid = read_by_library(stream)
    if events and isinstance(events[-1], Failure):
        assert kinds(events[:-1]) == kinds(by_library[: len(events) - 1])
    elif events and isinstance(events[-1], Close) and not is_valid:
        # The library has something against a close frame amid a message; RFC 6455 has not.
        assert kinds(events[:-1]) == kinds(by_library)
    else:
        assert is_valid
        assert kinds(events) == kinds(by_library)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_text_frame_is_what_another_parser_reads(size: int) -> None:
    """At each boundary of the length field the frame is unmasked, final and of the right size."""
    payload = b"x" * size
    stream = StreamReader()
    stream.feed_data(text_frame(payload))
    stream.feed_eof()
    parse = Frame.parse(stream.read_exact, mask=False)
    with pytest.raises(StopIteration) as parsed:
        next(parse)
    frame = parsed.value.value
    assert (frame.opcode, frame.fin, bytes(frame.data)) == (TEXT, True, payload)
    with pytest.raises(StopIteration) as at_eof:
        next(stream.at_eof())
    assert at_eof.value.value is True, "bytes are left over"


@pytest.mark.parametrize(("size", "header"), [(125, 2), (126, 4), (65535, 4), (65536, 10)])
def test_a_text_frame_has_the_shortest_header(size: int, header: int) -> None:
    """RFC 6455 asks for the minimal length encoding."""
    assert len(text_frame(bytes(size))) == header + size


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@pytest.mark.parametrize("size", [0, 1, 125])
def test_a_control_frame_is_what_another_parser_reads(opcode: int, size: int) -> None:
    """It is final, not masked, and has its payload."""
    payload = bytes(range(size))
    stream = StreamReader()
    stream.feed_data(control_frame(opcode, payload))
    stream.feed_eof()
    parsing = Frame.parse(stream.read_exact, mask=False)
    with pytest.raises(StopIteration) as done:
        next(parsing)
    assert done.value.value == Frame(Opcode(opcode), payload, fin=True)


def test_a_close_that_was_written_is_read() -> None:
    """With its code and reason; the daemon's reader reads what the daemon writes."""
    payload = close_payload(4999, "gone \u2026")
    assert kinds(read([frame(CLOSE, payload)])) == kinds([Close(4999, "gone \u2026", payload)])


@given(st.text(max_size=200))
def test_a_reason_is_cut_between_two_characters(reason: str) -> None:
    """It keeps as much as a close frame has room for."""
    cut = cut_reason(reason)
    assert reason.startswith(cut)
    assert len(cut.encode()) <= MAX_REASON_BYTES == 123
    more = reason[: len(cut) + 1]
    assert cut == reason or len(more.encode()) > MAX_REASON_BYTES
