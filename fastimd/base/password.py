"""Passwords from files: others on the machine may read the arguments of a command."""

from __future__ import annotations

from pathlib import Path


def read_password(path: Path) -> str:
    """The first line of a file.

    Raises:
        ValueError: it cannot be read; the text names it and says why.
    """
    try:
        return path.read_text(encoding="utf-8").split("\n", 1)[0].removesuffix("\r")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise ValueError(f"{path}: {reason}") from exc
