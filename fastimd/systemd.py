"""The notify protocol of systemd, sd_notify(3): datagrams to the socket in $NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Tell systemd a state such as ``READY=1``; False when nobody asked to be told.

    Raises:
        OSError: the notify socket is there but cannot be written.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify_socket:
        notify_socket.sendto(state.encode(), address)
    return True
