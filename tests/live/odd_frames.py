"""Scripts of frames that no library would send, and of commands in unusual company."""

from __future__ import annotations

from protobuf_by_hand import delimited, encode, varint
from steps import (
    CONNECT,
    END,
    ENTER,
    HELLO,
    JSON,
    MARA,
    NOTHING,
    PROTOBUF,
    UNSUBSCRIBE,
    Script,
    command,
    history,
    inside,
    publish,
    raw,
    say,
    send,
    subscribe,
)

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
