"""The arguments of ``fastimd chat``."""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT = "ws://127.0.0.1:9000/"
PASSWORD_VARIABLE = "FASTIMD_CHAT_PASSWORD"  # noqa: S105 - its name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what ``fastimd chat`` takes."""
    parser.add_argument(
        "address",
        nargs="?",
        default=DEFAULT,
        metavar="ADDRESS",
        help=f"ws://HOST:PORT/, or wss://, http://, https:// ({DEFAULT})",
    )
    parser.add_argument("group", metavar="GROUP", help="the group's id")
    parser.add_argument("--user", metavar="NAME", help="the user's id (default: your login name)")
    parser.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help=f"file with the password (default: ${PASSWORD_VARIABLE}, or ask)",
    )
    parser.add_argument(
        "--history",
        type=int,
        metavar="N",
        help="start with the last N messages (default: the server's 50)",
    )
    parser.add_argument(
        "--json", action="store_true", help="read lines, write JSON lines, as in a pipe"
    )
    parser.add_argument(
        "--follow", action="store_true", help="in a pipe: keep reading after the end of input"
    )
    parser.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="coloured names (auto)"
    )
