"""Reading with one registration a socket: nothing is overheard, and no end is missed."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from fastimd.door.receiver import COMINGS_A_TURN, RECEIVE_BYTES, Readiness, Receiver


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection: ours, which does not block, and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    with ours, client:
        yield ours, client


@pytest.fixture
def readiness(nursery: trio.Nursery) -> Readiness:
    readiness = Readiness()
    nursery.start_soon(readiness.run)
    return readiness


async def receive(receiver: Receiver) -> bytes:
    with trio.fail_after(10):
        return await receiver.receive()


async def is_silent(receiver: Receiver) -> bool:
    """Nothing more comes."""
    with trio.move_on_after(0.05) as patience:
        await receiver.receive()
    return patience.cancelled_caught


Ends = tuple[socket.socket, socket.socket]


async def test_bytes_are_read_as_they_come(readiness: Readiness, ends: Ends) -> None:
    """Those that were there before, those that are waited for, and no more."""
    ours, client = ends
    client.sendall(b"before")
    receiver = readiness.watch(ours)
    assert await receive(receiver) == b"before"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, receiver)
        await wait_all_tasks_blocked()
        client.sendall(b"awaited")
    assert await is_silent(receiver)
    client.sendall(b"after a wait that was given up")
    assert await receive(receiver) == b"after a wait that was given up"
    receiver.close()


async def test_what_comes_while_nobody_waits_is_remembered(
    readiness: Readiness, ends: Ends
) -> None:
    """Its edge goes by long before the next wait."""
    ours, client = ends
    receiver = readiness.watch(ours)
    for text in (b"one", b"two"):
        client.sendall(text)
        await trio.sleep(0.02)
    assert await receive(receiver) == b"onetwo"
    receiver.close()


async def test_more_than_one_read_brings(readiness: Readiness, ends: Ends) -> None:
    """A full read is followed by another, with or without a new edge."""
    ours, client = ends
    receiver = readiness.watch(ours)
    sent = bytes(range(256)) * (3 * RECEIVE_BYTES // 256)

    async def send() -> None:
        await trio.to_thread.run_sync(client.sendall, sent)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        got = b""
        while len(got) < len(sent):
            got += await receive(receiver)
            await trio.sleep(0.01)
    assert got == sent
    assert await is_silent(receiver)
    receiver.close()


@pytest.mark.parametrize("size", [1, RECEIVE_BYTES])
async def test_an_end_that_comes_with_the_last_bytes(
    readiness: Readiness, ends: Ends, size: int
) -> None:
    """It makes no edge of its own, and is read all the same."""
    ours, client = ends
    client.sendall(bytes(size))
    client.shutdown(socket.SHUT_WR)
    await trio.sleep(0.02)
    receiver = readiness.watch(ours)
    got = 0
    while data := await receive(receiver):
        got += len(data)
    assert got == size
    assert await receive(receiver) == b""
    receiver.close()


async def test_an_end_after_the_last_bytes(readiness: Readiness, ends: Ends) -> None:
    """The usual one."""
    ours, client = ends
    receiver = readiness.watch(ours)
    client.sendall(b"last")
    assert await receive(receiver) == b"last"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, receiver)
        await wait_all_tasks_blocked()
        client.close()
    assert await receive(receiver) == b""
    receiver.close()


async def test_a_reset_is_an_end(readiness: Readiness, ends: Ends) -> None:
    """A client that is gone is told from one that is silent."""
    ours, client = ends
    receiver = readiness.watch(ours)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert await receive(receiver) == b""
    receiver.close()


@pytest.mark.parametrize("what", [b"", b"first word"], ids=["end", "begin"])
async def test_many_that_come_or_go_leave_others_their_turns(
    readiness: Readiness, what: bytes
) -> None:
    """Each is told, so many a turn; what somebody goes on to say comes before what is left."""
    heard: list[bytes] = []
    told_at = 0

    async def wait_crowd(receiver: Receiver) -> None:
        heard.append(await receiver.receive())

    async def wait_word(receiver: Receiver) -> None:
        nonlocal told_at
        assert await receiver.receive() == b"word"
        told_at = len(heard)

    count = 4 * COMINGS_A_TURN
    pairs = [socket.socketpair() for _ in range(count + 1)]
    with ExitStack() as stack:
        for ours, client in pairs:
            stack.enter_context(ours).setblocking(False)
            stack.enter_context(client)
        *receivers, talker = [readiness.watch(ours) for ours, _ in pairs]
        pairs[-1][1].sendall(b"hello")
        assert await receive(talker) == b"hello"
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for receiver in receivers:
                    nursery.start_soon(wait_crowd, receiver)
                nursery.start_soon(wait_word, talker)
                await wait_all_tasks_blocked()
                for _, client in pairs[:-1]:
                    client.sendall(what) if what else client.close()
                pairs[-1][1].sendall(b"word")
    assert heard == [what] * count
    assert told_at <= 2 * COMINGS_A_TURN


async def test_a_socket_that_is_closed_here_ends_the_wait(readiness: Readiness, ends: Ends) -> None:
    """Who cuts sockets wakes those who wait for them."""
    ours, _ = ends
    receiver = readiness.watch(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, receiver)
        await wait_all_tasks_blocked()
        ours.close()
        readiness.wake_all()
    assert await receive(receiver) == b""
    receiver.close()


async def test_a_socket_that_is_closed_already_is_not_watched(
    readiness: Readiness, ends: Ends
) -> None:
    """The door may cut one that waits for its turn to open: it knows this error."""
    ours, _client = ends
    ours.close()
    with pytest.raises(trio.ClosedResourceError):
        readiness.watch(ours)


async def test_a_cut_socket_that_lives_on_elsewhere_wakes_nobody(
    readiness: Readiness, ends: Ends
) -> None:
    """A child process has it until its program begins; the epoll goes on telling of it."""
    ours, client = ends
    receiver = readiness.watch(ours)
    copy = os.dup(ours.fileno())
    one, other = socket.socketpair()  # before the number of the first is free
    try:
        ours.close()
        receiver.close()
        with one, other:
            one.setblocking(False)
            next_one = readiness.watch(one)
            client.sendall(b"for nobody")
            other.sendall(b"heard")
            assert await receive(next_one) == b"heard"
            next_one.close()
    finally:
        os.close(copy)


async def test_the_next_socket_of_a_number_is_heard(readiness: Readiness, ends: Ends) -> None:
    """A receiver that is closed late leaves alone who has its descriptor now."""
    ours, _client = ends
    old = readiness.watch(ours)
    number = ours.fileno()
    ours.close()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        next_client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    with next_client, renumbered(accepted, number) as next_ours:
        next_ours.setblocking(False)
        receiver = readiness.watch(next_ours)
        old.close()
        next_client.sendall(b"heard")
        assert await receive(receiver) == b"heard"
        receiver.close()


def renumbered(connection: socket.socket, number: int) -> socket.socket:
    """The socket with another descriptor, which is free."""
    descriptor = connection.detach()
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    return socket.socket(fileno=number)
