"""Reading and writing standard input and output, which others may have as well.

Another process may have made them non-blocking; then is waited for here.
"""

from __future__ import annotations

import os
import select


def read_some(descriptor: int, size: int) -> bytes:
    """Wait for bytes; none are the end.

    Raises:
        OSError: it cannot be read.
    """
    while True:
        try:
            return os.read(descriptor, size)
        except BlockingIOError:
            select.select([descriptor], [], [])


def write_all(descriptor: int, data: bytes) -> None:
    """Wait until all is written.

    Raises:
        OSError: it cannot be written.
    """
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
