"""What tests of the load generator need: its command, and chats that are not to be relied on."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

COMMAND = (sys.executable, "-m", "fastimd", "bench")


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def result_of(*arguments: object) -> dict[str, Any]:
    done = bench(*arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert (result["lost"], result["disorder"], result["refused"]) == (0, "", 0)
    return result


class Group:
    """A chat of one group that is not to be relied on.

    Args:
        fault: gets each message's number and a member's; returns what the member is sent.
    """

    def __init__(self, fault: Callable[[list[str], int], list[str]]) -> None:
        self._fault = fault
        self._said: list[str] = []
        self._members: list[ServerConnection] = []
        self._lock = threading.Lock()

    def serve(self, member: ServerConnection) -> None:
        """One member."""
        with self._lock:
            member.send("greeting")
            self._members.append(member)
        with suppress(ConnectionClosed):  # the load generator goes without a word
            for text in member:
                self._pass_on(str(text))

    def _pass_on(self, text: str) -> None:
        with self._lock:
            self._said.append(text)
            for number, each in enumerate(self._members):
                for message in self._fault(self._said, number):
                    each.send(f'{{"info":"{message}","ts":{len(self._said)}}}')


@contextmanager
def served(group: Group) -> Iterator[str]:
    server: Server
    with serve(group.serve, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


def honest(said: list[str], _member: int) -> list[str]:
    return said[-1:]


def loses_the_last(said: list[str], member: int) -> list[str]:
    return said[-1:] if len(said) < 30 or member != 3 else []


def loses_one(said: list[str], member: int) -> list[str]:
    return said[-1:] if len(said) != 30 or member != 3 else []


def loses_one_for_all(said: list[str], _member: int) -> list[str]:
    return said[-1:] if len(said) != 30 else []


def doubles_one(said: list[str], _member: int) -> list[str]:
    return said[-1:] * (2 if len(said) == 30 else 1)


def swaps_two(said: list[str], _member: int) -> list[str]:
    return {30: [], 31: said[:-3:-1]}.get(len(said), said[-1:])


def changes_one(said: list[str], member: int) -> list[str]:
    return [said[-1].replace(".", ",")] if (len(said), member) == (30, 3) else said[-1:]


def makes_one_up(said: list[str], _member: int) -> list[str]:
    return ["hello"] if len(said) == 30 else said[-1:]


FAULTS = (
    loses_the_last,
    loses_one,
    loses_one_for_all,
    doubles_one,
    swaps_two,
    changes_one,
    makes_one_up,
)
