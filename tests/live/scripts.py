"""What the raw client says to Centrifugo and to fastimd, script by script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from odd_frames import COMMANDS, FRAMES
from protobuf_by_hand import delimited, encode, varint
from steps import (
    BY_NAME,
    CONNECT,
    END,
    ENTER,
    HELLO,
    JSON,
    LEAVE,
    MARA,
    MISSED,
    NILS,
    OTHER,
    TWO_MORE,
    Script,
    command,
    connecting,
    entering,
    history,
    inside,
    pause,
    publish,
    raw,
    reading,
    recovering,
    say,
    speaking,
    subscribe,
    tokened,
)

CONNECTS = {
    "connect": Script((HELLO, END), BY_NAME),
    "connect with JSON before Protobuf": Script((HELLO, END), ("json before protobuf",)),
    "connect with Protobuf before JSON": Script((HELLO, END), ("protobuf before json",)),
    "connect with JSON beside another": Script((HELLO, END), ("json beside another",)),
    "connect without a token": connecting(),
    "connect as a guest": speaking(),
    "connect with data": speaking(data={"userId": "mara"}),
    "connect with data that names nobody": speaking(data={"userId": ""}),
    "connect with data of a wrong type": connecting(data={"userId": ["mara"]}),
    "connect with data that is an array": connecting(data=["mara"]),
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
    "subscribe to a channel of 128": entering("c" * 128),
    "subscribe to a channel of 200": entering("c" * 200),
    "subscribe to a channel of 300": entering("c" * 300),
    "subscribe to a channel with a space": entering("a b"),
    "subscribe to a channel with a space behind": entering("a "),
    "subscribe to a channel with a line end": entering("a\nb"),
    "subscribe to a Chinese channel": entering("群聊"),
    "subscribe to a channel with a colon": entering("no:such"),
    "subscribe to a channel of another": entering("a#nils"),
    "subscribe to a channel of two others": entering("a#nils,olga"),
    "subscribe to a channel of one's own": entering("a#mara"),
    "subscribe to a channel of oneself and another": entering("a#nils,mara"),
    "subscribe to a channel of nobody": entering("a#"),
    "subscribe to a channel with two number signs": entering("a#mara#nils"),
    "subscribe to a channel with a space between names": entering("a#nils, mara"),
    "subscribe to a channel of nothing but a name": entering("#mara"),
    "subscribe to a channel with a dollar": entering("$a"),
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
