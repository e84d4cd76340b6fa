"""Slots: where a cluster keeps a key, and how other keys are made to lie beside it.

A key lies in the slot of what stands in its first braces, or else of all of it. ``gml:GROUP`` has
its slot by the id of the group, whatever that is. What goes with it gets a *tag* in front, a text
in braces of which the slot is the same: there is one for each.
"""

from __future__ import annotations

from binascii import crc_hqx
from functools import cache, lru_cache
from itertools import product
from string import ascii_lowercase, digits

SLOTS = 16_384


@lru_cache(maxsize=65_536)
def slot_of(key: str | bytes) -> int:
    """The slot of a key or of a sharded channel."""
    text = key.encode(errors="surrogatepass") if isinstance(key, str) else key
    start = text.find(b"{")
    if start >= 0:
        end = text.find(b"}", start + 1)
        if end > start + 1:
            text = text[start + 1 : end]
    return crc_hqx(text, 0) % SLOTS


def tag_of(slot: int) -> str:
    """What stands before a key, braces included, to make it lie in a slot."""
    return _tags()[slot]


@cache
def _tags() -> list[str]:
    letters = ascii_lowercase + digits
    tags: dict[int, str] = {}
    for size in range(1, 5):
        for each in product(letters, repeat=size):
            text = "".join(each)
            tags.setdefault(crc_hqx(text.encode(), 0) % SLOTS, f"{{{text}}}")
            if len(tags) == SLOTS:
                return [tags[slot] for slot in range(SLOTS)]
    raise AssertionError("four letters are enough for every slot")
