"""The tags that a hook gives a message: a few short texts, none of them fastimd's own."""

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
    judged = dict(tags)
    if len(judged) > MOST_TAGS:
        raise HookFailed(f"returned {len(judged)} tags, more than {MOST_TAGS}")
    for text in (*judged, *judged.values()):
        if not isinstance(text, str):
            raise HookFailed(f"returned tags with a {type(text).__name__}, not only text")
    if "" in judged:
        raise HookFailed("returned a tag without a name")
    if EVENT in judged:
        raise HookFailed(f"returned a tag {EVENT}, which is fastimd's own")
    size = sum(size_of("a tag", text) for text in (*judged, *judged.values()))
    if size > TAGS_BYTES:
        raise HookFailed(f"returned tags of {size} bytes, more than {TAGS_BYTES}")
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
