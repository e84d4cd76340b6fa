"""Connections that another process has accepted."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from fastimd.door.listeners import Hatch, address_of, hand_over


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, Hatch]]:
    """The end that hands over, and the hatch at the other."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    hatch = Hatch(theirs, "http://127.0.0.1:1")
    with ours, closing(hatch):
        yield ours, hatch


def test_a_connection_goes_through(channel: tuple[socket.socket, Hatch]) -> None:
    """With its client's address, in order; no child process inherits it."""
    ours, hatch = channel
    with pytest.raises(BlockingIOError):
        hatch.accept()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for number in range(3):
            with socket.create_connection(listener.getsockname()) as client:
                connection, peer = listener.accept()
                with connection:
                    hand_over(ours, connection, f"{peer[0]} {number}")
                taken, name = hatch.accept()
                with taken:
                    assert name == (f"127.0.0.1 {number}",)
                    assert not os.get_inheritable(taken.fileno())
                    taken.sendall(b"hello")
                    assert client.recv(10) == b"hello"
    assert hatch.accepted == 3
    assert address_of(hatch) == "http://127.0.0.1:1"


def test_it_takes_only_so_many(channel: tuple[socket.socket, Hatch]) -> None:
    """The rest must be offered to somebody else."""
    ours, hatch = channel
    one, other = socket.socketpair()
    with one, other:
        handed = 0
        with suppress(BlockingIOError):
            while True:
                hand_over(ours, one, "x")
                handed += 1
        assert handed > 10
        for _ in range(handed):
            hatch.accept()[0].close()
        with pytest.raises(BlockingIOError):
            hatch.accept()


def test_the_end_of_the_other_process(channel: tuple[socket.socket, Hatch]) -> None:
    """What it had handed over is still there."""
    ours, hatch = channel
    one, other = socket.socketpair()
    with one, other:
        hand_over(ours, one, "x")
    ours.close()
    hatch.accept()[0].close()
    with pytest.raises(EOFError):
        hatch.accept()


def test_the_end_of_one_that_had_not_read_all(channel: tuple[socket.socket, Hatch]) -> None:
    """The system tells that otherwise; it is the same."""
    ours, hatch = channel
    hatch.channel.send(b"a report")
    ours.close()
    with pytest.raises(EOFError):
        hatch.accept()


def test_no_descriptor_is_left(channel: tuple[socket.socket, Hatch]) -> None:
    """It is told as ``accept`` tells it, and the next one comes through."""
    ours, hatch = channel
    one, other = socket.socketpair()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with one, other:
        for _ in range(2):
            hand_over(ours, one, "x")
        most = max(map(int, os.listdir("/proc/self/fd"))) + 1
        fillers = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
        try:
            with suppress(OSError):
                while True:
                    fillers.append(os.dup(0))
            with pytest.raises(OSError, match="Too many open files"):
                hatch.accept()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            for each in fillers:
                os.close(each)
        hatch.accept()[0].close()
