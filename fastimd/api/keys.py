"""Who calls: a backend with a key, or an operator on the daemon's own machine."""

from __future__ import annotations

import hmac
import re
from collections import OrderedDict
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache
from typing import NamedTuple

import trio

from ..base.settings.api import ApiKey

WRONG_A_MINUTE = 60
"""How many wrong keys of one address get an answer of their own, and a line in the log."""
MOST_STRANGERS = 10_000
"""How many addresses are remembered for that; of more, those that came first are forgotten."""


class Caller(NamedTuple):
    """Who calls, and the globs of what it may call, and for which groups."""

    name: str
    methods: tuple[str, ...] = ("*",)
    groups: tuple[str, ...] = ("*",)

    def may_call(self, method: str) -> bool:
        """Whether it may call a method."""
        return fits(self.methods, method)

    def may_touch(self, group: str) -> bool:
        """Whether it may do something in a group."""
        return fits(self.groups, group)

    @property
    def has_all_groups(self) -> bool:
        """It may do what concerns more than one group."""
        return "*" in self.groups


OPERATOR = Caller("operator")
"""Who needs no key."""


def find_caller(keys: Sequence[ApiKey], digest: str) -> Caller | None:
    """Whose secret has a digest; how long that takes does not tell how much of it is right."""
    found = None
    for key in keys:
        if hmac.compare_digest(digest, key.sha256.lower()):
            found = Caller(key.name, key.methods, key.groups)
    return found


def fits(globs: tuple[str, ...], text: str) -> bool:
    """Whether one of the globs fits; ``*``, ``?`` and ``[…]`` mean what they do in file names."""
    return globs == ("*",) or _pattern(globs).fullmatch(text) is not None


@lru_cache(maxsize=1024)
def _pattern(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, globs)) or "(?!)")


class Strangers:
    """Paces those who show wrong keys, by their addresses."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def note(self, address: str) -> bool:
        """Note a wrong key; False when the address has shown too many in this minute."""
        now = trio.current_time()
        since, count = self._seen.pop(address, (now, 0))
        if now - since >= 60:
            since, count = now, 0
        self._seen[address] = since, count + 1
        if len(self._seen) > MOST_STRANGERS:
            self._seen.popitem(last=False)
        return count < WRONG_A_MINUTE
