"""A word filter: stars out some words, and refuses messages that advertise.

    PYTHONPATH=examples/hooks FASTIMD_HOOKS__HANDLER=wordfilter .venv/bin/fastimd

It is ``async def``, as it only computes: a plain ``def`` would go through a thread each time.
"""

from __future__ import annotations

import re
from dataclasses import replace

from fastimd.hooks import Message, Refused

STARRED = ("darn", "heck")
REFUSED = ("buy gold", "free coins")


def any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    """Whole words, in upper or lower case."""
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)


_STARRED, _REFUSED = any_of(STARRED), any_of(REFUSED)


async def on_message(message: Message) -> Message:
    if _REFUSED.search(message.info):
        raise Refused("no advertising")
    info = _STARRED.sub(lambda found: "*" * len(found[0]), message.info)
    return replace(message, info=info)
