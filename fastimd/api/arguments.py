"""The arguments of ``fastimd api-key``."""

from __future__ import annotations

import argparse


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    command.add_argument("name", metavar="NAME", help="the backend's name, for logs and metrics")
    command.add_argument(
        "--methods",
        nargs="+",
        default=["*"],
        metavar="GLOB",
        help="the methods that it may call (all)",
    )
    command.add_argument(
        "--groups",
        nargs="+",
        default=["*"],
        metavar="GLOB",
        help="the groups in which it may do so (all)",
    )
