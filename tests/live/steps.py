"""What the scripts for Centrifugo and fastimd are made of.

A script is steps: commands in a frame, a frame as it is, or a pause. After each step all clients
tell what they have heard. Capitals stand for what only the run knows: ``CHANNEL`` is a channel of
the script's own, ``OFFSET2`` the second offset that was told, ``EPOCH1`` the first epoch,
``OFFSET_FUTURE`` an offset long after them all, ``TOKEN mara`` a good token of the user mara.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protobuf_by_hand import encode
from raw import Message, Wire

JSON: tuple[Wire, ...] = ("json",)
PROTOBUF: tuple[Wire, ...] = ("protobuf",)
BOTH: tuple[Wire, ...] = ("json", "protobuf")
BY_NAME: tuple[Wire, ...] = (*BOTH, "json by name", "protobuf by name")


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


def speaking(**fields: Any) -> Script:
    """Connect so, and say something."""
    return Script(
        (
            say(command(1, "connect", **fields), subscribe()),
            say(publish(3, "x")),
            say(command(4, "presence", channel="CHANNEL")),
            say(command(5, "publish", channel="elsewhere", data="x")),
        )
    )


def inside(*commands: Message, wires: tuple[Wire, ...] = BOTH) -> Script:
    """One frame after another of somebody who has subscribed."""
    return Script((ENTER, *(say(one) for one in commands), END), wires)


def entering(channel: str) -> Script:
    """Subscribe to a channel of this name."""
    return Script((HELLO, say(command(3, "subscribe", channel=channel)), END))


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
