"""The frames of a batch, joined for the members' outboxes, and what is counted of it."""

from __future__ import annotations

from .audience import Batch

PIECE_BYTES = 65536
"""Frames of a batch are joined up to this length."""


def messages_of(batch: Batch) -> int:
    """How many messages a batch has, without what is told between them."""
    return sum([ts >= 0 for ts, _ in batch])


def pieces_of(frames: list[bytes], most: int) -> list[bytes]:
    """Frames joined, and parted again where they become longer than ``most`` bytes."""
    joined = b"".join(frames)
    if len(joined) <= most:
        return [joined] if joined else []
    pieces: list[list[bytes]] = []
    room = 0
    for frame in frames:
        if len(frame) > room:
            pieces.append([])
            room = most
        pieces[-1].append(frame)
        room -= len(frame)
    return [b"".join(piece) for piece in pieces]
