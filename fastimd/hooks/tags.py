"""The tags that a hook or a backend gives a message: a few short texts, none fastimd's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.errors import HookFailed
from . import MOST_TAGS, TAGS_BYTES

EVENT = "event"
"""Marks what fastimd itself tells a group, such as a recall: clients would believe a message."""


def judge_tags(tags: Any) -> dict[str, str]:
    """A copy of the tags that a hook has returned.

    Raises:
        HookFailed: they are not what tags may be; the error has nothing of their text.
    """
    if not isinstance(tags, Mapping):
        raise HookFailed(f"returned tags that are a {type(tags).__name__}, not a dict")
    try:
        return check_tags(tags)
    except ValueError as exc:
        raise HookFailed(f"returned {exc}") from exc


def check_tags(tags: Mapping[Any, Any]) -> dict[str, str]:
    """A copy of tags, if they are what tags may be.

    Raises:
        ValueError: they are not; the error has nothing of their text.
    """
    judged = dict(tags)
    if not judged:
        return judged
    if len(judged) > MOST_TAGS:
        raise ValueError(f"{len(judged)} tags, more than {MOST_TAGS}")
    for text in (*judged, *judged.values()):
        if not isinstance(text, str):
            raise ValueError(  # noqa: TRY004 - what is wrong is the tags
                f"tags with a {type(text).__name__}, not only text"
            )
    if "" in judged:
        raise ValueError("a tag without a name")
    if EVENT in judged:
        raise ValueError(f"a tag {EVENT}, which is fastimd's own")
    try:
        size = sum(len(text.encode()) for text in (*judged, *judged.values()))
    except UnicodeEncodeError:
        raise ValueError("a tag that UTF-8 cannot say") from None
    if size > TAGS_BYTES:
        raise ValueError(f"tags of {size} bytes, more than {TAGS_BYTES}")
    return judged


def size_of(what: str, text: str) -> int:
    """How many bytes a text is.

    Raises:
        HookFailed: UTF-8 cannot say it.
    """
    try:
        return len(text.encode())
    except UnicodeEncodeError as exc:
        raise HookFailed(f"returned {what} that UTF-8 cannot say") from exc
