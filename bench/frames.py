"""The cost of reading a frame and of an idle reader: ours beside the websockets library's."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from statistics import median

from websockets.frames import TEXT, Frame
from websockets.protocol import SERVER, Protocol, State

from fastimd.websocket.frames import FrameReader

FRAMES = 50_000
READERS = 2_000
ROUNDS = 5
MAX_BYTES = 65_536
FRAME = Frame(TEXT, b"x" * 64).serialize(mask=True)


def new_protocol() -> Protocol:
    return Protocol(SERVER, state=State.OPEN, max_size=MAX_BYTES)


def new_reader() -> FrameReader:
    return FrameReader(MAX_BYTES)


def read_by_library() -> None:
    protocol = new_protocol()
    for _ in range(FRAMES):
        protocol.receive_data(FRAME)
        for frame in protocol.events_received():
            assert isinstance(frame, Frame)
            bytes(frame.data).decode()
        protocol.data_to_send()


def read_by_reader() -> None:
    reader = new_reader()
    for _ in range(FRAMES):
        for _event in reader.feed(FRAME):
            pass


def microseconds(work: Callable[[], None]) -> float:
    costs = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        costs.append((time.process_time() - began) / FRAMES * 1e6)
    return median(costs)


def bytes_each(make: Callable[[], object]) -> float:
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    kept = [make() for _ in range(READERS)]
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / len(kept)


def main() -> None:
    library, reader = microseconds(read_by_library), microseconds(read_by_reader)
    print(f"a text frame of 64 bytes: websockets {library:.2f} us, ours {reader:.2f} us")
    print(f"ratio: {reader / library:.2f}")
    library, reader = bytes_each(new_protocol), bytes_each(new_reader)
    print(f"an idle reader: websockets {library:.0f} bytes, ours {reader:.0f} bytes")


if __name__ == "__main__":
    main()
