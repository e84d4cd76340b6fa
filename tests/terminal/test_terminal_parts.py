"""The pure parts of the terminal client: commands, text made harmless, addresses."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from trio_websocket import CloseReason, WebSocketConnection, wrap_client_stream, wrap_server_stream
from wcwidth import wcswidth

from fastimd.base.address import Address
from fastimd.base.codec import Message
from fastimd.terminal import conversation
from fastimd.terminal.columns import columns, cut, fold
from fastimd.terminal.commands import COMMANDS, Command, Say, Unknown, complete, parse, read_number
from fastimd.terminal.events import Declined, Event, Heard, Joined, Lost
from fastimd.terminal.failures import ChatError, TokenLost, TurnedOut, Unreachable
from fastimd.terminal.harmless import MOST_MARKS, harmless
from fastimd.terminal.outgoing import Outgoing
from fastimd.terminal.painter import COLOURS, INDENT, Painter, colour_of

FAMILY = "👨\u200d👩\u200d👧"
STEPS = (0, 95, 135, 175, 215, 255)
"""Brightness of the steps of xterm's colour cube."""

# Text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("a\rb\x08c\x00", r"a\rb\x08c\x00"),
        ("\u202eabc\u2066\u200f", r"\u202eabc\u2066\u200f"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("tab\there", "tab    here"),
        (f"{FAMILY} نمی\u200cخواهم", f"{FAMILY} نمی\u200cخواهم"),
        ("a" + "\u0301" * 50, "a" + "\u0301" * MOST_MARKS),
    ],
)
def test_text_is_harmless(text: str, shown: str) -> None:
    """What a terminal obeys, or what turns text around, is an escape; what people write is not."""
    assert harmless(text) == shown


def test_text_is_in_the_terminals_encoding() -> None:
    """What it cannot show is an escape, and none of its bytes is a control there."""
    assert harmless("é 你", "latin-1") == "é \\u4f60"


@pytest.mark.parametrize("text", ["a b " * 30, "x" * 100, "你好吗" * 30, FAMILY * 40, "", "  "])
@pytest.mark.parametrize(("first", "rest"), [(5, 12), (0, 20), (-3, 20), (40, 30), (1, 2)])
def test_folding_keeps_the_text_and_the_width(text: str, first: int, rest: int) -> None:
    """Nothing is lost, and no row is longer than it may be."""
    rows = list(fold(text, first, rest))
    assert "".join(rows) == text
    assert columns(rows[0]) <= max(first, 0)
    assert all(wcswidth(row) <= rest for row in rows[1:])


def test_folding_breaks_at_spaces() -> None:
    """Where there are some; and a cut is what the first row has."""
    assert list(fold("one two three", 8, 8)) == ["one two ", "three"]
    assert cut("你好吗", 5) == "你好"


def test_only_our_own_rows_begin_at_the_margin() -> None:
    """However long a message is and whatever line ends are in it, its further rows are indented."""
    painter = Painter("mara", has_colours=False)
    info = "first\n12:00   lin: I am not lin\r\n\n" + "word " * 40
    day, *rows = painter.message(Message("7", "eve", info, 1_000), 40)
    assert day == f"-- {time.strftime('%Y-%m-%d', time.localtime(1))} --"
    assert rows[0].endswith("   eve: first")
    assert all(row.startswith(" " * INDENT) for row in rows[1:])
    assert all(columns(row) <= 40 for row in rows)


def test_a_name_ends_where_it_ends() -> None:
    """There is no space in it, nothing to be obeyed, and it leaves room for the text."""
    painter = Painter("mara", has_colours=False)
    user = "eve: hi\u3164you\u2800\x1b[31m" + "x" * 200
    rows = list(painter.message(Message("7", user, "text", 1_000), 60))
    assert rows[1].partition("   ")[2].startswith("eve:␣hi␣you␣\\x1b[31mx")
    assert "".join(row.strip() for row in rows[1:]).endswith(": text")


def test_a_day_is_shown_once() -> None:
    """The row of a day stands before its first message; a ``ts`` of no day is shown too."""
    painter = Painter("mara", has_colours=False)
    shown = [
        list(painter.message(Message("7", "mara", "x", ts), 40))
        for ts in (1_000, 2_000, 200_000_000, 10**30)
    ]
    assert [len(rows) for rows in shown] == [2, 1, 2, 2]
    assert shown[1][0].endswith(" * mara: x")
    assert shown[3][1] == "--:-- * mara: x"


def test_colours_are_stable_and_can_be_read() -> None:
    """A user has one colour, and each has enough contrast on black and on white."""
    assert colour_of("mara") == colour_of("mara")
    assert len({colour_of(str(user)) for user in range(200)}) > len(COLOURS) // 2
    for colour in COLOURS:
        light = luminance(colour)
        assert min((light + 0.05) / 0.05, 1.05 / (light + 0.05)) >= 3.9, colour


def luminance(colour: int) -> float:
    """The relative luminance of a colour of xterm's cube, as WCAG 2 has it."""
    steps = (colour - 16) // 36, (colour - 16) // 6 % 6, (colour - 16) % 6
    shares = [STEPS[step] / 255 for step in steps]
    linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# Commands


@pytest.mark.parametrize(
    ("line", "entered"),
    [
        ("hello /join 7", Say("hello /join 7")),
        ("//help", Say("/help")),
        (" /help", Say(" /help")),
        ("   ", None),
        ("/help", Command("/help", "")),
        ("/join  a group ", Command("/join", "a group")),
        ("/recall 2", Command("/recall", "2")),
        ("/mute lin 5 spam, again", Command("/mute", "lin 5 spam, again")),
    ],
)
def test_lines_are_said_or_obeyed(line: str, entered: Say | Command | None) -> None:
    """A slash makes a command of a line, two of them say one."""
    assert parse(line) == entered


@pytest.mark.parametrize("line", ["/nope", "/", "/join", "/quit now", "/Help"])
def test_what_is_no_command_is_not_said(line: str) -> None:
    """It is told what is wrong with it."""
    with pytest.raises(Unknown):
        parse(line)


@pytest.mark.parametrize("argument", ["0", "-1", "x", "1.5", "101", "9" * 5000, "²"])
def test_a_number_behind_a_command_has_bounds(argument: str) -> None:
    """Anything else is told; none at all is the default."""
    with pytest.raises(Unknown, match="from 1 to 100"):
        read_number(Command("/history", argument), 20, 100)
    assert read_number(Command("/history", ""), 20, 100) == 20
    assert read_number(Command("/history", "100"), 20, 100) == 100


@pytest.mark.parametrize(
    ("line", "word", "found"),
    [
        ("/h", "/h", ["/help", "/history "]),
        ("/q", "/q", ["/quit"]),
        ("/join al", "al", ["alpha1", "alpha2"]),
        ("/join x", "x", []),
        ("hello", "hello", []),
        ("", "", []),
        ("/", "/", [f"{name} " if takes else name for name, takes in COMMANDS.items()]),
    ],
)
def test_commands_and_groups_are_completed(line: str, word: str, found: list[str]) -> None:
    """The word at the end of the line, and what it may become."""
    assert complete(line, ["alpha1", "alpha2", "beta"]) == (word, found)


# What was said and what came back


def said(*texts: str) -> Outgoing:
    outgoing = Outgoing()
    for text in texts:
        outgoing.say(text)
    return outgoing


async def send(outgoing: Outgoing, count: int) -> None:
    for _ in range(count):
        await outgoing.wait_next()
        outgoing.take_next()


async def test_an_echo_answers_all_before_it() -> None:
    """The server keeps the order of a socket."""
    outgoing = said("a", "b", "c")
    await send(outgoing, 3)
    outgoing.hear("b")
    assert outgoing.unanswered == ["c"]


async def test_a_changed_text_answers_the_first() -> None:
    """A server may change what is said; another device of the user answers nothing for long."""
    outgoing = said("a", "b")
    await send(outgoing, 2)
    outgoing.hear("from the telephone")
    outgoing.hear("a")
    assert outgoing.unanswered == ["b"]
    outgoing.hear("b, without the bad word")
    assert outgoing.count == 0


async def test_what_waits_is_kept_and_what_was_sent_is_not() -> None:
    """After a broken connection only what was never sent is sent."""
    outgoing = said("sent", "waits")
    await send(outgoing, 1)
    assert outgoing.unanswered == ["sent"]
    outgoing.forget_sent()
    assert await outgoing.wait_next() == "waits"


async def test_settling_ends_when_nothing_comes_any_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Each answer gives the others their time again."""
    outgoing = said("a", "b")
    await send(outgoing, 2)

    async def answer() -> None:
        await trio.sleep(8)
        outgoing.hear("a")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        assert not await outgoing.wait_settled(10)
        assert trio.current_time() == pytest.approx(18)
    assert outgoing.give_up() == ["b"]
    assert await outgoing.wait_settled(10)


# A connection

ANYBODY: Any = None
ANYWHERE: Any = None
CLOSING: Any = SimpleNamespace(closed=CloseReason(1001, "restart 5"))


async def test_a_silent_server_is_left(autojump_clock: trio.testing.MockClock) -> None:
    """One that answers pings is stayed with; one that does not is left within its time."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_for, theirs, 300)
        socket = await wrap_client_stream(nursery, ours, "h", "/")  # type: ignore[arg-type]
        with trio.CancelScope() as connection:
            await conversation._watch(socket, connection)
        await trio.lowlevel.checkpoint()
        silent_for = trio.current_time() - 300
        assert 0 < silent_for <= conversation.PING_SECONDS + conversation.PONG_SECONDS
        assert connection.cancel_called
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("is_silent", "said"),
    [(True, "opens a socket and says nothing"), (False, "lets nobody in: later (1013)")],
)
async def test_a_server_that_does_not_greet_is_left(
    autojump_clock: trio.testing.MockClock, is_silent: bool, said: str
) -> None:
    """One that is silent, or closes, does not keep people waiting at the beginning."""
    ours, theirs = trio.testing.memory_stream_pair()
    events_send, _events = trio.open_memory_channel[Event](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(*((answer_for, theirs, 600) if is_silent else (turn_away, theirs)))
        socket = await wrap_client_stream(nursery, ours, "h", "/")  # type: ignore[arg-type]
        talk = conversation.Conversation(account_of(socket), "7", events_send)
        with trio.fail_after(conversation.GREETING_SECONDS + 1):
            await talk.run()
        nursery.cancel_scope.cancel()
    assert isinstance(talk.ended, Unreachable)
    assert str(talk.ended) == f"ws://h/ {said}"


async def test_another_group_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    """Once there was a greeting the server is one that comes back; the loss is told once."""
    ours, theirs = trio.testing.memory_stream_pair()
    events_send, events = trio.open_memory_channel[Event](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(greet, theirs)
        socket = await wrap_client_stream(nursery, ours, "h", "/")  # type: ignore[arg-type]
        account = account_of(Unreachable("away"), Unreachable("still away"), socket)
        account.was_greeted = True
        talk = conversation.Conversation(account, "7", events_send)
        nursery.start_soon(talk.run)
        with trio.fail_after(10):
            assert await events.receive() == Lost("away")
            assert await events.receive() == Joined([], 0)
        nursery.cancel_scope.cancel()


def account_of(*attempts: WebSocketConnection | Unreachable) -> Any:
    """An account whose sockets are these, one after the other."""
    left = iter(attempts)

    @asynccontextmanager
    async def open_socket(_: str) -> AsyncIterator[WebSocketConnection]:
        attempt = next(left)
        if isinstance(attempt, Unreachable):
            raise attempt
        yield attempt

    return SimpleNamespace(
        open_socket=open_socket,
        chat_path=str,
        address="ws://h/",
        user="mara",
        token="t",
        was_greeted=False,
    )


async def greet(stream: trio.abc.Stream) -> None:
    """A server that has an empty group."""
    async with trio.open_nursery() as nursery:
        request = await wrap_server_stream(nursery, stream)
        socket = await request.accept()
        await socket.send_message('{"list":[],"total":0}')
        await trio.sleep_forever()


async def answer_for(stream: trio.abc.Stream, seconds: float) -> None:
    """A server that answers handshake and pings, and then says nothing."""
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            await request.accept()
            await trio.sleep_forever()


async def turn_away(stream: trio.abc.Stream) -> None:
    """A server that has no use for a socket just now."""
    async with trio.open_nursery() as nursery:
        request = await wrap_server_stream(nursery, stream)
        socket = await request.accept()
        await socket.aclose(1013, "later")


async def test_a_text_that_the_server_declines_is_told() -> None:
    """It waits for no echo; what was said around it does, and unknown frames are left out."""
    events_send, events = trio.open_memory_channel[Event](8)
    talk = conversation.Conversation(SimpleNamespace(user="mara"), "7", events_send)  # type: ignore[arg-type]
    for text in ("a", "b", "c"):
        talk.say(text)
    await send(talk.outgoing, 3)
    echo = '{"groupId":"7","userId":"mara","info":"a","ts":5}'
    for frame in ('{"code":403,"msg":"no","data":"b"}', "[]", '{"of":"later"}', "{", echo):
        await talk._take(frame.encode())
    assert events.receive_nowait() == Declined("b", "no")
    assert events.receive_nowait() == Heard(Message("7", "mara", "a", 5))
    assert events.statistics().current_buffer_used == 0
    assert talk.outgoing.unanswered == ["c"]


async def test_of_two_same_texts_the_one_without_an_answer_is_declined() -> None:
    """The first came back changed; when the second is refused, none is waited for."""
    outgoing = Outgoing()
    for _ in range(2):
        outgoing.say("x")
    await send(outgoing, 2)
    outgoing.hear("changed")
    outgoing.decline("x")
    assert outgoing.count == 0


async def test_nothing_goes_out_on_a_socket_that_closes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What is said then waits for the next one, and its fate is not in doubt."""
    talk = conversation.Conversation(ANYBODY, "7", ANYWHERE)
    talk.say("hello")
    with trio.fail_after(1):
        await talk._speak(CLOSING)
    assert talk.outgoing.unanswered == []
    assert await talk.outgoing.wait_next() == "hello"


@pytest.mark.parametrize(
    ("code", "reason", "seconds"),
    [
        (1001, "restart 1500", 1.5),
        (1001, "restart 99999999", 99_999.999),
        (1001, "restart x", None),
        (1001, "going away", None),
        (1006, None, None),
        (1009, None, None),
        (1013, "slow", None),
    ],
)
def test_most_closes_are_come_back_from(
    code: int, reason: str | None, seconds: float | None
) -> None:
    """With the pause that the server asks for, if it does."""
    loss = conversation._judge(CloseReason(code, reason))
    assert loss.seconds == seconds
    assert loss.reason


@pytest.mark.parametrize(
    ("reason", "failure", "status"),
    [
        ("login required", TokenLost, 77),
        ("kicked", TurnedOut, 3),
        ("not a member", TurnedOut, 4),
        ("left the group", TurnedOut, 4),
        ("flood", TurnedOut, 5),
        ("for another reason", TurnedOut, 77),
        (None, TurnedOut, 77),
    ],
)
def test_a_refusal_is_for_good(reason: str | None, failure: type[ChatError], status: int) -> None:
    """1008 is not tried again, but for a lost token."""
    with pytest.raises(failure) as raised:
        conversation._judge(CloseReason(1008, reason))
    assert raised.value.status == status


# Addresses


@pytest.mark.parametrize(
    ("url", "http", "shown"),
    [
        ("ws://127.0.0.1:9000/", "http://127.0.0.1:9000", "ws://127.0.0.1:9000/"),
        ("http://chat.example", "http://chat.example", "ws://chat.example/"),
        ("wss://chat.example/a/b/", "https://chat.example/a/b", "wss://chat.example/a/b/"),
        ("https://[::1]:8443", "https://[::1]:8443", "wss://[::1]:8443/"),
        ("ws://h/ä", "http://h/%C3%A4", "ws://h/%C3%A4/"),
    ],
)
def test_addresses_are_read(url: str, http: str, shown: str) -> None:
    """Of four schemes, with a path that stays."""
    address = Address.read(url)
    assert (address.http, str(address)) == (http, shown)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:9000",
        "ftp://h/",
        "ws://",
        "ws://u:p@h/",
        "ws://h/?x",
        "ws://h:x/",
        "ws://h:0/",
        "ws://[::1/",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    """Also one with a password: others could read it."""
    with pytest.raises(ValueError, match=r"."):
        Address.read(url)
