"""The cost of what is said all the time: as JSON, as Protobuf by hand, and by Protobuf's classes.

python bench/encodings.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from msgspec import Raw

from fastimd.live import json_wire, protobuf_talk, protobuf_wire
from fastimd.live.protocol import ClientInfo, Nothing, Publication, Push, Reply

TIMES = 20_000
ROUNDS = 7
GROUP, TEXT, TS = "group-17", b'"hello there, what a day it is"', 1_795_921_088_972
NUMBER = 1234
LINE = f'{{"id":{NUMBER},"publish":{{"channel":"{GROUP}","data":{TEXT.decode()}}}}}'
COMMAND = protobuf_wire.MESSAGES["Command"](
    id=NUMBER, publish={"channel": GROUP, "data": TEXT}
).SerializeToString()
PUBLICATION = Publication(Raw(TEXT), ClientInfo("user-17"), TS, time=TS)

WAYS: dict[str, tuple[Callable[[], object], Callable[[], object], Callable[[], object]]] = {
    "a publish command": (
        lambda: next(json_wire.read_commands(LINE)),
        lambda: protobuf_talk.read_publish(COMMAND, 0, len(COMMAND)),
        lambda: protobuf_wire.read_command(COMMAND),
    ),
    "the answer to a publish": (
        lambda: json_wire.encode_published(NUMBER),
        lambda: protobuf_wire.encode_published(NUMBER),
        lambda: protobuf_wire.encode(Reply(id=NUMBER, publish=Nothing())),
    ),
    "the push of a message": (
        lambda: json_wire.encode_publication(GROUP, PUBLICATION),
        lambda: protobuf_wire.encode_publication(GROUP, PUBLICATION),
        lambda: protobuf_wire.encode(Reply(push=Push(GROUP, PUBLICATION))),
    ),
}


def main() -> None:
    """Print a table."""
    print(f"{'us of CPU':28}{'JSON':>8}{'by hand':>10}{'classes':>10}")
    for name, ways in WAYS.items():
        json, by_hand, classes = map(microseconds, ways)
        print(f"{name:28}{json:8.2f}{by_hand:10.2f}{classes:10.2f}")


def microseconds(work: Callable[[], object]) -> float:
    """The CPU time of one call, as the median of some rounds."""
    costs = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(TIMES):
            work()
        costs.append((time.process_time() - began) / TIMES * 1e6)
    return median(costs)


if __name__ == "__main__":
    main()
