"""What the raw client says to Centrifugo and to fastimd, script by script.

A script is steps: commands in a frame, a frame as it is, or a pause. After each step all clients
tell what they have heard. Capitals stand for what only the run knows: ``CHANNEL`` is a channel of
the script's own, ``OFFSET2`` the second offset that was told, ``EPOCH1`` the first epoch,
``OFFSET_FUTURE`` an offset long after them all, ``TOKEN mara`` a good token of the user mara.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from protobuf_by_hand import delimited, encode, varint
from raw import Message, Wire

JSON: tuple[Wire, ...] = ("json",)
PROTOBUF: tuple[Wire, ...] = ("protobuf",)
BOTH: tuple[Wire, ...] = ("json", "protobuf")
ALL: tuple[Wire, ...] = ("json", "protobuf", "json by name", "protobuf by name")


END_ID = 99_999


@dataclass(frozen=True)
class Step:
    """One thing that a client does; ``pause`` is how long it only listens.

    The client ``other`` speaks JSON where the others speak Protobuf, and the other way round.
    """

    commands: tuple[Message, ...] = ()
    frame: str | bytes | None = None
    pause: float = 0.0
    client: str = "a"


@dataclass(frozen=True)
class Script:
    """Steps, and the wires on which they are played."""

    steps: tuple[Step, ...]
    wires: tuple[Wire, ...] = BOTH
    answers_pings: bool = True


def say(*commands: Message, client: str = "a") -> Step:
    return Step(commands=commands, client=client)


def send(frame: str | bytes, client: str = "a") -> Step:
    return Step(frame=frame, client=client)


def pause(seconds: float) -> Step:
    return Step(pause=seconds)


def command(number: int, name: str, /, **fields: Any) -> Message:
    return {"id": number, name: fields}


def subscribe(number: int = 2, **fields: Any) -> Message:
    return command(number, "subscribe", channel="CHANNEL", **fields)


def publish(number: int, data: Any) -> Message:
    return command(number, "publish", channel="CHANNEL", data=data)


def history(number: int = 9, **fields: Any) -> Message:
    return command(number, "history", channel="CHANNEL", **fields)


MARA = {"token": "TOKEN mara", "data": {"userId": "mara"}}
NILS = {"token": "TOKEN nils", "data": {"userId": "nils"}}
CONNECT = command(1, "connect", **MARA)
HELLO = say(CONNECT)
ENTER = say(CONNECT, subscribe())
OTHER = say(command(1, "connect", **NILS), subscribe(), client="b")
LEAVE = say(command(3, "unsubscribe", channel="CHANNEL"))
THREE = say(*(publish(number, f"number {number}") for number in (4, 5, 6)))
MISSED = (ENTER, OTHER, say(publish(3, "first"), client="b"), LEAVE)
"""Mara has heard the first message, and left."""
TWO_MORE = say(publish(4, "second"), publish(5, "third"), client="b")
NOTHING = command(3, "unsubscribe", channel="e")
"""A command that is answered, and does nothing."""
UNSUBSCRIBE = encode({"unsubscribe": {"channel": "e"}})
END = Step(commands=(command(END_ID, "rpc"),))
"""Shows whether a connection still answers; what, does not matter."""


def connecting(**fields: Any) -> Script:
    return Script((say(command(1, "connect", **fields)), END))


def inside(*commands: Message, wires: tuple[Wire, ...] = BOTH) -> Script:
    """One frame after another of somebody who has subscribed."""
    return Script((ENTER, *(say(one) for one in commands), END), wires)


def raw(frame: str | bytes) -> Script:
    """A frame of somebody who has subscribed."""
    wires = JSON if isinstance(frame, str) else PROTOBUF
    return Script((ENTER, send(frame), END), wires)


def recovering(offset: int | str, epoch: str = "EPOCH1") -> Script:
    """Two messages are missed, and asked for."""
    asked = subscribe(7, recover=True, offset=offset, epoch=epoch)
    return Script((*MISSED, TWO_MORE, say(asked), say(publish(8, "live"), client="b")))


def tokened(token: str) -> Script:
    """Subscribe with a token, and show it once more."""
    again = command(3, "sub_refresh", channel="CHANNEL", token=token)
    return Script((HELLO, say(subscribe(token=token)), say(again), END))


def reading(*asked: Message) -> Script:
    """Three messages are there."""
    return Script((ENTER, THREE, *(say(one) for one in asked)))


CONNECTS = {
    "connect": Script((HELLO, END), ALL),
    "connect without a token": connecting(),
    "connect with data": Script(
        (
            say(command(1, "connect", data={"userId": "mara"}), subscribe()),
            say(command(3, "presence", channel="CHANNEL")),
        )
    ),
    "connect with a name and a version": connecting(**MARA, name="js", version="1.0"),
    "connect with a token that is none": connecting(token="nonsense"),
    "connect with a token of another key": connecting(token="FOREIGN mara"),
    "connect with a token that has expired": Script(
        (say(command(1, "connect", token="EXPIRED mara")),)
    ),
    "connect with a token that will expire": connecting(token="EXPIRING mara"),
    "connect with a token for a subscription": connecting(token="ENTRY mara"),
    "connect with a token of nobody": connecting(token="TOKEN "),
    "connect with a token that names a channel": Script(
        (
            say(command(1, "connect", token="INVITED mara")),
            say(publish(2, "x")),
            say(subscribe(3)),
            say(history(4, limit=10)),
            say(command(5, "presence", channel="CHANNEL")),
            say(command(6, "unsubscribe", channel="CHANNEL")),
            say(publish(7, "y")),
        )
    ),
    "connect again with a token that names a channel": Script(
        (
            *(ENTER, say(publish(3, "x"))),
            say(command(1, "connect", token="INVITED nils"), client="b"),
            say(publish(4, "y")),
            say(
                command(
                    *(1, "connect"),
                    token="INVITED olga",
                    subs={"CHANNEL": {"recover": True, "offset": "OFFSET1", "epoch": "EPOCH1"}},
                ),
                client="c",
            ),
        )
    ),
    "connect with a token that tells of its user": Script(
        (
            say(command(1, "connect", token="TOLD mara"), subscribe(join_leave=True)),
            say(publish(3, "x")),
            say(history(4, limit=10)),
            say(command(5, "presence", channel="CHANNEL")),
        )
    ),
    "connect twice": Script((HELLO, say(command(2, "connect", **MARA)), END)),
    "connect twice in a frame": Script((say(CONNECT, command(2, "connect", **MARA)), END)),
    "connect again with a token that is none": Script(
        (HELLO, say(command(2, "connect", token="nonsense")), END)
    ),
    "subscribe before connect": Script((say(subscribe()), END)),
    "subscribe before connect in a frame": Script((say(subscribe(), CONNECT), END)),
    "publish before connect": Script((say(publish(1, "x")), END)),
    "ping before connect": Script((say(command(1, "ping")), END)),
    "pong before connect": Script((say({}), END)),
    "send before connect": Script((say({"send": {"data": {}}}), END)),
    "never connect": Script((pause(0.1), pause(11), END)),
}

NUMBERS = {
    "connect without id": Script((say({"connect": MARA}), END)),
    "subscribe without id": inside({"subscribe": {"channel": "elsewhere"}}),
    "publish without id": inside({"publish": {"channel": "CHANNEL", "data": "x"}}),
    "ping without id": inside({"ping": {}}),
    "history without id": inside({"history": {"channel": "CHANNEL"}}),
    "rpc without id": inside({"rpc": {"method": "none"}}),
    "an id used twice": inside(publish(3, "once"), publish(3, "twice")),
    "ids that fall": inside(publish(50, "fifty"), publish(3, "three")),
    "the greatest id": inside(command(4_294_967_295, "unsubscribe", channel="e")),
    "an id of 33 bits": inside(command(4_294_967_296, "unsubscribe", channel="e")),
    "a negative id": inside(command(-1, "unsubscribe", channel="e"), wires=JSON),
    "an id that is text": raw('{"id":"3","unsubscribe":{"channel":"e"}}'),
    "an id with a fraction": raw('{"id":3.5,"unsubscribe":{"channel":"e"}}'),
}

SUBSCRIBES = {
    "subscribe": Script((HELLO, say(subscribe()), END)),
    "subscribe where messages are": Script((OTHER, say(publish(3, "x"), client="b"), ENTER)),
    "subscribe twice": inside(subscribe(3)),
    "subscribe twice in a frame": Script((HELLO, say(subscribe(2), subscribe(3)), END)),
    "subscribe without channel": inside(command(3, "subscribe")),
    "subscribe to a channel of 128": Script(
        (HELLO, say(command(3, "subscribe", channel="c" * 128)), END)
    ),
    "subscribe to a channel of 200": Script(
        (HELLO, say(command(3, "subscribe", channel="c" * 200)), END)
    ),
    "subscribe to a channel of 300": Script(
        (HELLO, say(command(3, "subscribe", channel="c" * 300)), END)
    ),
    "subscribe to a channel with a space": Script(
        (HELLO, say(command(3, "subscribe", channel="a b")), END)
    ),
    "subscribe to a channel with a space behind": Script(
        (HELLO, say(command(3, "subscribe", channel="a ")), END)
    ),
    "subscribe to a channel with a line end": Script(
        (HELLO, say(command(3, "subscribe", channel="a\nb")), END)
    ),
    "subscribe to a Chinese channel": Script(
        (HELLO, say(command(3, "subscribe", channel="群聊")), END)
    ),
    "subscribe to a channel with a colon": Script(
        (HELLO, say(command(3, "subscribe", channel="no:such")), END)
    ),
    "subscribe to a channel with a number sign": Script(
        (HELLO, say(command(3, "subscribe", channel="a#nils")), END)
    ),
    "subscribe to a channel with a dollar": Script(
        (HELLO, say(command(3, "subscribe", channel="$a")), END)
    ),
    "subscribe with a token that is none": tokened("nonsense"),
    "subscribe with a token": tokened("ENTRY mara"),
    "subscribe with a token of another": tokened("ENTRY nils"),
    "subscribe with a token for another channel": tokened("ENTRY_ELSEWHERE mara"),
    "subscribe with a token of another key": tokened("ENTRY_FOREIGN mara"),
    "subscribe with a token for a connection": tokened("TOKEN mara"),
    "subscribe with a token that has expired": tokened("ENTRY_EXPIRED mara"),
    "subscribe with a token that will expire": tokened("ENTRY_EXPIRING mara"),
    "subscribe with data": Script((HELLO, say(subscribe(data={"a": 1})), END)),
    "subscribe with delta": Script((HELLO, say(subscribe(delta="fossil")), END)),
    "subscribe with flags": Script((HELLO, say(subscribe(flag=255)), END)),
    "subscribe to a map": Script((HELLO, say(subscribe(type=1)), END)),
    "subscribe with positioned and recoverable": Script(
        (HELLO, say(subscribe(positioned=True, recoverable=True)), END)
    ),
    "subscribe with join and leave": Script(
        (
            say(CONNECT, subscribe(join_leave=True)),
            OTHER,
            say(command(3, "unsubscribe", channel="CHANNEL"), client="b"),
        )
    ),
    "subscribe without join and leave": Script((ENTER, OTHER)),
    "subscribe to 129 channels": Script(
        (HELLO, say(*(command(n + 2, "subscribe", channel=f"many-{n}") for n in range(129))), END)
    ),
    "unsubscribe": inside(command(3, "unsubscribe", channel="CHANNEL"), publish(4, "x")),
    "unsubscribe and subscribe": inside(command(3, "unsubscribe", channel="CHANNEL"), subscribe(4)),
    "unsubscribe where one is not": inside(command(3, "unsubscribe", channel="elsewhere")),
    "unsubscribe without channel": inside(command(3, "unsubscribe")),
}

RECOVERIES = {
    "recover nothing": Script(
        (*MISSED, say(subscribe(7, recover=True, offset="OFFSET1", epoch="EPOCH1")))
    ),
    "recover two": recovering("OFFSET1"),
    "recover one": Script(
        (
            *(*MISSED, TWO_MORE, say(history(6, limit=-1), client="b")),
            say(subscribe(7, recover=True, offset="OFFSET2", epoch="EPOCH1")),
        )
    ),
    "recover from the start": recovering(0),
    "recover from the future": recovering("OFFSET_FUTURE"),
    "recover of a wrong epoch": recovering("OFFSET1", "wrong"),
    "recover from an offset of 64 bits": recovering(18_446_744_073_709_551_615),
    "recover from an offset of 63 bits": recovering(9_223_372_036_854_775_807),
    "recover without epoch": recovering("OFFSET1", ""),
    "recover from the start without epoch": recovering(0, ""),
    "recover in an empty channel": Script(
        (HELLO, say(subscribe(2, recover=True)), say(publish(3, "x")))
    ),
    "an offset without recover": Script(
        (*MISSED, TWO_MORE, say(subscribe(7, offset="OFFSET1", epoch="EPOCH1")))
    ),
    "recover more than 1,000": Script(
        (
            *MISSED,
            *(say(*(publish(at + n, "x") for n in range(501)), client="b") for at in (100, 700)),
            say(subscribe(7, recover=True, offset="OFFSET1", epoch="EPOCH1")),
        )
    ),
}

PUBLISHES = {
    "publish": inside(publish(3, "x")),
    "publish where one is not": inside(command(3, "publish", channel="elsewhere", data="x")),
    "publish without channel": inside(command(3, "publish", data="x")),
    "publish without data": inside(command(3, "publish", channel="CHANNEL")),
    "publish an object": inside(publish(3, {"text": "x", "to": ["a", 1]})),
    "publish an array": inside(publish(3, [1, "a", None])),
    "publish null": inside(publish(3, None)),
    "publish a number": inside(publish(3, 7)),
    "publish true": inside(publish(3, True)),
    "publish an empty string": inside(publish(3, "")),
    "publish an empty object": inside(publish(3, {})),
    "publish text that is JSON": inside(publish(3, '{"a":1}')),
    "publish Chinese": inside(publish(3, "你好 😀")),
    "publish a NUL": inside(publish(3, "a\0b")),
    "publish 60,000 characters": inside(publish(3, "x" * 60_000)),
    "publish an object with spaces": raw(
        '{"id":3,"publish":{"channel":"CHANNEL","data":{"b": 1,  "a": [ ]}}}'
    ),
    "publish a great number in an object": raw(
        '{"id":3,"publish":{"channel":"CHANNEL","data":{"n":12345678901234567890.10}}}'
    ),
    "publish half of a surrogate pair": raw(
        '{"id":3,"publish":{"channel":"CHANNEL","data":"\\ud800"}}'
    ),
    "publish half of a surrogate pair in Protobuf": raw(
        delimited(
            varint(1 << 3)
            + b"\x03"
            + varint(7 << 3 | 2)
            + delimited(encode({"channel": "CHANNEL"}, "PublishRequest") + b'\x12\x08"\\ud800"')
        )
    ),
    "publish is heard by another": Script(
        (ENTER, OTHER, say(publish(3, "to all")), say(publish(3, {"a": 1}), client="b"))
    ),
    "publish is heard on the other wire": Script(
        (
            *(ENTER, say(command(1, "connect", **NILS), subscribe(), client="other")),
            say(publish(3, "你好"), publish(4, {"a": [1, "b"]})),
            say(publish(3, "hello"), publish(4, ["c"]), client="other"),
            say(history(5, limit=10), client="other"),
        )
    ),
    "publish is not heard after unsubscribe": Script(
        (ENTER, OTHER, LEAVE, say(publish(3, "x"), client="b"), END)
    ),
    "publish is heard once after subscribing again": Script(
        (ENTER, LEAVE, say(subscribe(4)), say(publish(5, "x")))
    ),
    "publish 20 in a frame": Script(
        (ENTER, OTHER, say(*(publish(n, n * "x") for n in range(3, 23))))
    ),
    "publish and unsubscribe in a frame": Script(
        (ENTER, say(publish(3, "x"), command(4, "unsubscribe", channel="CHANNEL"), publish(5, "y")))
    ),
    "subscribe and unsubscribe in a frame": Script(
        (
            *(HELLO, OTHER, say(subscribe(2), command(3, "unsubscribe", channel="CHANNEL"))),
            say(publish(3, "x"), client="b"),
        )
    ),
    "publish in the frame of subscribe": Script((say(CONNECT, subscribe(), publish(3, "x")), END)),
    "publish bytes that are no JSON": raw(
        delimited(
            varint(1 << 3)
            + b"\x03"
            + varint(7 << 3 | 2)
            + delimited(encode({"channel": "CHANNEL"}, "PublishRequest") + b"\x12\x02\xff\x00")
        )
    ),
    "publish to a map": inside(command(3, "publish", channel="CHANNEL", data="x", type=1)),
}

READINGS = {
    "history without limit": reading(history()),
    "history of an empty channel": inside(history(limit=10)),
    "history with limit 2": reading(history(limit=2)),
    "history with limit -1": reading(history(limit=-1)),
    "history with limit -2": reading(history(limit=-2)),
    "history with limit 5000": reading(history(limit=5000)),
    "history in reverse": reading(history(limit=2, reverse=True)),
    "history in reverse without limit": reading(history(reverse=True)),
    "history since": reading(history(limit=10, since={"offset": "OFFSET1", "epoch": "EPOCH1"})),
    "history since with limit 1": reading(
        history(limit=1, since={"offset": "OFFSET1", "epoch": "EPOCH1"})
    ),
    "history since without limit": reading(history(since={"offset": "OFFSET1", "epoch": "EPOCH1"})),
    "history since in reverse": reading(
        history(limit=10, reverse=True, since={"offset": "OFFSET3", "epoch": "EPOCH1"})
    ),
    "history since the last": reading(
        history(limit=10, since={"offset": "OFFSET3", "epoch": "EPOCH1"})
    ),
    "history since the start": reading(history(limit=10, since={"epoch": "EPOCH1"})),
    "history since nothing": reading(history(limit=10, since={})),
    "history since the start in reverse": reading(
        history(limit=10, reverse=True, since={"epoch": "EPOCH1"})
    ),
    "history since the future": reading(
        history(limit=10, since={"offset": "OFFSET_FUTURE", "epoch": "EPOCH1"})
    ),
    "history since the future in reverse": reading(
        history(limit=10, reverse=True, since={"offset": "OFFSET_FUTURE", "epoch": "EPOCH1"})
    ),
    "history since a wrong epoch": reading(
        history(limit=10, since={"offset": "OFFSET1", "epoch": "wrong"})
    ),
    "history since without epoch": reading(history(limit=10, since={"offset": "OFFSET1"})),
    "history with the greatest limit": reading(history(limit=2_147_483_647)),
    "history with the least limit": reading(history(limit=-2_147_483_648)),
    "history with a limit of 33 bits": Script(
        (ENTER, say(history(limit=4_294_967_297)), END), JSON
    ),
    "history since an offset of 64 bits": reading(
        history(limit=10, since={"offset": 18_446_744_073_709_551_615, "epoch": "EPOCH1"})
    ),
    "history where one is not": inside(command(3, "history", channel="elsewhere", limit=1)),
    "history without channel": inside(command(3, "history", limit=1)),
    "presence": Script((ENTER, OTHER, say(command(3, "presence", channel="CHANNEL")))),
    "presence of oneself twice": Script(
        (
            *(ENTER, say(CONNECT, subscribe(), client="b")),
            say(command(3, "presence", channel="CHANNEL")),
            say(command(4, "presence_stats", channel="CHANNEL")),
        )
    ),
    "presence when one has gone": Script(
        (
            *(ENTER, OTHER, say(command(3, "unsubscribe", channel="CHANNEL"), client="b")),
            say(command(3, "presence", channel="CHANNEL")),
            say(command(4, "presence_stats", channel="CHANNEL")),
        )
    ),
    "presence where one is not": inside(command(3, "presence", channel="elsewhere")),
    "presence without channel": inside(command(3, "presence")),
    "presence_stats": Script((ENTER, OTHER, say(command(3, "presence_stats", channel="CHANNEL")))),
    "presence_stats where one is not": inside(command(3, "presence_stats", channel="elsewhere")),
    "presence_stats without channel": inside(command(3, "presence_stats")),
}

OTHERS = {
    "rpc of an unknown method": inside(command(3, "rpc", method="none", data={})),
    "rpc without method": inside(command(3, "rpc", data={})),
    "rpc without anything": inside(command(3, "rpc")),
    "send": inside({"send": {"data": {"a": 1}}}),
    "send with an id": inside({"id": 3, "send": {"data": {"a": 1}}}),
    "send without data": inside({"send": {}}),
    "refresh of what does not expire": inside(command(3, "refresh", token="TOKEN mara")),
    "refresh without token": inside(command(3, "refresh")),
    "refresh with a token that is none": inside(command(3, "refresh", token="nonsense")),
    "refresh with a token that will expire": inside(command(3, "refresh", token="EXPIRING mara")),
    "refresh of what will expire": Script(
        (
            say(command(1, "connect", token="EXPIRING mara")),
            say(command(2, "refresh", token="EXPIRING mara")),
            say(command(3, "refresh", token="TOKEN mara")),
            END,
        )
    ),
    "refresh with a token that has expired": Script(
        (
            say(command(1, "connect", token="EXPIRING mara")),
            say(command(2, "refresh", token="EXPIRED mara")),
            END,
        )
    ),
    "refresh with a token of another": Script(
        (
            say(command(1, "connect", token="EXPIRING mara")),
            say(command(2, "refresh", token="EXPIRING nils")),
            END,
        )
    ),
    "sub_refresh": inside(command(3, "sub_refresh", channel="CHANNEL", token="nonsense")),
    "sub_refresh without token": inside(command(3, "sub_refresh", channel="CHANNEL")),
    "sub_refresh where one is not": inside(
        command(3, "sub_refresh", channel="elsewhere", token="nonsense")
    ),
    "sub_refresh without channel": inside(command(3, "sub_refresh", token="nonsense")),
    "ping": inside(command(3, "ping")),
    "a pong unasked": inside({}),
    "pings that are answered": Script((HELLO, pause(12), END)),
    "pings that are not answered": Script((HELLO, pause(12), END), answers_pings=False),
}

COMMANDS = {
    "an unknown command": inside({"id": 3, "nonsense": {}}),
    "an unknown command without id": inside({"nonsense": {}}),
    "no command": inside({"id": 3}),
    "two commands in one": inside(
        {
            "id": 3,
            "publish": {"channel": "CHANNEL", "data": "x"},
            "presence": {"channel": "CHANNEL"},
        }
    ),
    "unknown fields": Script(
        (say({"id": 1, "connect": {**MARA, "nonsense": 1}}), say(subscribe(nonsense=1)), END)
    ),
    "an unknown field beside a command": inside({**NOTHING, "nonsense": {}}),
    "several commands in a frame": Script(
        (
            say(
                CONNECT,
                subscribe(2),
                publish(3, "x"),
                command(4, "unsubscribe", channel="e"),
                history(5, limit=5),
            ),
            END,
        )
    ),
    "an error among commands": Script(
        (
            say(
                CONNECT,
                command(2, "publish", channel="elsewhere", data="x"),
                subscribe(3),
                command(4, "presence", channel="elsewhere"),
                command(5, "unsubscribe", channel="e"),
            ),
        )
    ),
    "a bad command among commands": Script((say(CONNECT, {"id": 2}, NOTHING), END)),
    "10,000 calls in a frame": Script(
        (HELLO, say(*(command(number, "rpc") for number in range(2, 10_002))), END)
    ),
    "2,000 calls in a frame": Script(
        (HELLO, say(*(command(number, "rpc") for number in range(2, 2_002))), END)
    ),
    "10,000 pongs in a frame": Script((HELLO, say(*[{}] * 10_000), END)),
    "a command of 1 MB": inside(publish(3, "x" * 1_000_000)),
    "30,000 brackets deep": raw(
        '{"id":3,"publish":{"channel":"CHANNEL","data":' + "[" * 30_000 + "]" * 30_000 + "}}"
    ),
    "30,000 brackets deep where no one looks": raw(
        '{"id":3,"unsubscribe":{"channel":"e"},"nonsense":' + "[" * 30_000 + "]" * 30_000 + "}"
    ),
    "60,000 brackets open": raw("[" * 60_000),
    "10,000 objects open": raw('{"a":' * 10_000),
    "100,000 brackets deep": raw(
        '{"id":3,"publish":{"channel":"CHANNEL","data":' + "[" * 100_000 + "]" * 100_000 + "}}"
    ),
    "30,000 brackets deep in Protobuf": Script(
        (
            ENTER,
            send(
                delimited(
                    varint(1 << 3)
                    + b"\x03"
                    + varint(7 << 3 | 2)
                    + delimited(
                        encode({"channel": "CHANNEL"}, "PublishRequest")
                        + varint(2 << 3 | 2)
                        + delimited(b"[" * 30_000 + b"]" * 30_000)
                    )
                )
            ),
            END,
        ),
        PROTOBUF,
    ),
}

FRAMES = {
    "an empty frame": raw(""),
    "a frame of a line end": raw("\n"),
    "a frame of spaces": raw("   "),
    "a line end behind a command": raw('{"id":3,"unsubscribe":{"channel":"e"}}\n'),
    "an empty line between commands": raw(
        '{"id":3,"unsubscribe":{"channel":"e"}}\n\n{"id":4,"unsubscribe":{"channel":"e"}}'
    ),
    "spaces around a command": raw('  {"id":3, "unsubscribe": {"channel":"e"} }  '),
    "CRLF between commands": raw(
        '{"id":3,"unsubscribe":{"channel":"e"}}\r\n{"id":4,"unsubscribe":{"channel":"e"}}'
    ),
    "a command over two lines": raw('{"id":3,\n"unsubscribe":{"channel":"e"}}'),
    "two commands on a line": raw(
        '{"id":3,"unsubscribe":{"channel":"e"}}{"id":4,"unsubscribe":{"channel":"e"}}'
    ),
    "not JSON": raw("hello"),
    "half a command": raw('{"id":3,"unsubscribe":'),
    "not JSON behind a command": raw('{"id":3,"unsubscribe":{"channel":"e"}}\nhello'),
    "null": raw("null"),
    "a number": raw("7"),
    "a string": raw('"rpc"'),
    "an array": raw("[]"),
    "an array of commands": raw('[{"id":3,"unsubscribe":{"channel":"e"}}]'),
    "a command that is null": raw('{"id":3,"unsubscribe":null}'),
    "a command that is an array": raw('{"id":3,"unsubscribe":[]}'),
    "a command that is text": raw('{"id":3,"unsubscribe":"x"}'),
    "a channel that is a number": raw('{"id":3,"subscribe":{"channel":7}}'),
    "a channel that is null": raw('{"id":3,"subscribe":{"channel":null}}'),
    "a flag that is text": raw('{"id":3,"subscribe":{"channel":"x","recover":"yes"}}'),
    "an offset that is negative": raw('{"id":3,"subscribe":{"channel":"x","offset":-1}}'),
    "an offset of 64 bits": Script(
        (HELLO, say(subscribe(recover=True, offset=18_446_744_073_709_551_615)), END)
    ),
    "an offset of 65 bits": raw(
        '{"id":3,"subscribe":{"channel":"x","offset":18446744073709551616}}'
    ),
    "names in capitals": raw('{"ID":3,"UNSUBSCRIBE":{"channel":"e"}}'),
    "a name twice": raw('{"id":3,"id":4,"unsubscribe":{"channel":"e"}}'),
    "a byte order mark": raw('\ufeff{"id":3,"unsubscribe":{"channel":"e"}}'),
    "a binary frame on the JSON wire": Script(
        (ENTER, send(b'{"id":3,"unsubscribe":{"channel":"e"}}'), END), JSON
    ),
    "bytes that are not UTF-8 on the JSON wire": Script((ENTER, send(b"\xff\xfe"), END), JSON),
    "a text frame on the Protobuf wire": Script(
        (ENTER, send(delimited(encode(NOTHING)).decode()), END), PROTOBUF
    ),
    "JSON on the Protobuf wire": Script(
        (ENTER, send('{"id":3,"unsubscribe":{"channel":"e"}}'), END), PROTOBUF
    ),
    "an empty frame of Protobuf": raw(b""),
    "bad Protobuf": raw(delimited(b"\xff\xff\xff\xff")),
    "a varint that is cut off": raw(b"\xff"),
    "a varint that never ends": raw(b"\xff" * 20),
    "a varint that is cut off inside": raw(delimited(b"\x08\xff")),
    "a length beyond the frame": raw(b"\x05\x08\x03"),
    "a length of 100,000": raw(varint(100_000) + b"\x08\x03"),
    "a length that is longer than it need be": raw(b"\x84\x00" + encode(NOTHING)),
    "a length inside beyond its message": raw(delimited(b"\x08\x03\x3a\x7f\x0a")),
    "bad Protobuf behind a command": raw(delimited(encode(NOTHING)) + b"\xff"),
    "a field of a wrong wire type": raw(delimited(b"\x0a\x01\x03" + UNSUBSCRIBE)),
    "a field of number 0": raw(delimited(b"\x08\x03" + UNSUBSCRIBE + b"\x00\x01")),
    "a fixed64 that is unknown": raw(
        delimited(b"\x08\x03" + UNSUBSCRIBE + varint(99 << 3 | 1) + bytes(8))
    ),
    "a fixed32 that is unknown": raw(
        delimited(b"\x08\x03" + UNSUBSCRIBE + varint(99 << 3 | 5) + bytes(4))
    ),
    "a group that is unknown": raw(
        delimited(b"\x08\x03" + UNSUBSCRIBE + varint(99 << 3 | 3) + varint(99 << 3 | 4))
    ),
    "a group that is not closed": raw(delimited(b"\x08\x03" + UNSUBSCRIBE + varint(99 << 3 | 3))),
    "a group that is not opened": raw(delimited(b"\x08\x03" + UNSUBSCRIBE + varint(99 << 3 | 4))),
    "10,000 groups deep": raw(
        delimited(
            b"\x08\x03"
            + UNSUBSCRIBE
            + (varint(99 << 3 | 3) * 10_000)
            + (varint(99 << 3 | 4) * 10_000)
        )
    ),
    "a wire type that is none": raw(
        delimited(b"\x08\x03" + UNSUBSCRIBE + varint(99 << 3 | 7) + b"\x00")
    ),
    "a field twice": raw(delimited(b"\x08\x03\x08\x04" + UNSUBSCRIBE)),
    "a channel that is not UTF-8": raw(delimited(b"\x08\x03\x2a\x04\x0a\x02\xff\xfe")),
    "a command twice, which is merged": raw(
        delimited(
            b"\x08\x03"
            + varint(7 << 3 | 2)
            + delimited(encode({"channel": "CHANNEL"}, "PublishRequest"))
            + varint(7 << 3 | 2)
            + delimited(encode({"data": "x"}, "PublishRequest"))
        )
    ),
}


def _all(tables: Iterable[Mapping[str, Script]]) -> dict[str, Script]:
    found: dict[str, Script] = {}
    for table in tables:
        assert not found.keys() & table.keys()
        found |= table
    return found


SCRIPTS = _all(
    (CONNECTS, NUMBERS, SUBSCRIBES, RECOVERIES, PUBLISHES, READINGS, OTHERS, COMMANDS, FRAMES)
)
"""All of them, by their names."""
