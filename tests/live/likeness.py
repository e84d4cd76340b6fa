"""How what fastimd says differs from what Centrifugo says, line by line.

A line is ``3 b replies.0.error.code: 102 -> 107``: what client b hears of the third step. What
differs in all scripts alike is taken out before; its names are those of ``docs/LIVE.md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from play import Played, Transcript
from scripts import SCRIPTS

EPOCH_TOLD = "The epoch of a publication is not told"
TIME_TOLD = "A publication has its time"
ONLY_USER = "A publication names its user and nothing more"
REASON_TOLD = "A refusal is told why"
REFUSALS = {103: "permission denied", 107: "bad request"}
EVERYWHERE = (EPOCH_TOLD, TIME_TOLD, ONLY_USER, REASON_TOLD)


def differences(theirs: Played, ours: Played, found: set[str]) -> dict[str, list[str]]:
    """The lines of each script that differs; one that only one wire has begins with its name.

    Args:
        found: gets those of ``EVERYWHERE`` that there are.
    """
    differing = {}
    for name, script in SCRIPTS.items():
        by_wire = {
            wire: list(_compare(theirs[name, wire], ours[name, wire], found))
            for wire in script.wires
        }
        lines = list(dict.fromkeys(line for told in by_wire.values() for line in told))
        shown = []
        for line in lines:
            having = [wire for wire, told in by_wire.items() if line in told]
            shown.append(line if len(having) == len(by_wire) else f"{'+'.join(having)}: {line}")
        if shown:
            differing[name] = shown
    return differing


def _compare(theirs: Transcript, ours: Transcript, found: set[str]) -> Iterator[str]:
    for number in range(max(len(theirs), len(ours))):
        there, here = (told[number] if number < len(told) else {} for told in (theirs, ours))
        yield from _lines(_plain(there, found, False), _plain(here, found, True), str(number + 1))


def _plain(value: Any, found: set[str], is_ours: bool, key: str = "") -> Any:
    """What was said without what differs everywhere."""
    if isinstance(value, list):
        return [_plain(inner, found, is_ours, key) for inner in value]
    if not isinstance(value, dict):
        return value
    kept = dict(value)
    if key in ("pub", "publications"):
        if not is_ours and kept.pop("epoch", None):
            found.add(EPOCH_TOLD)
        if is_ours and kept.pop("time", None):
            found.add(TIME_TOLD)
        if not is_ours and "client" in kept.get("info", ()):
            kept["info"] = {name: one for name, one in kept["info"].items() if name == "user"}
            found.add(ONLY_USER)
    if (
        key == "error"
        and is_ours
        and REFUSALS.get(kept["code"], kept["message"]) != kept["message"]
    ):
        kept["message"] = REFUSALS[kept["code"]]
        found.add(REASON_TOLD)
    return {name: _plain(inner, found, is_ours, name) for name, inner in kept.items()}


def _lines(theirs: Any, ours: Any, path: str) -> Iterator[str]:
    if path.endswith(" replies") and theirs and ours:
        theirs, ours, is_same_order = _in_order(theirs, ours)
        if not is_same_order:
            yield f"{path}: in another order"
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in sorted(theirs.keys() | ours.keys()):
            yield from _lines(theirs.get(name), ours.get(name), _join(path, name))
    elif isinstance(theirs, list) and isinstance(ours, list):
        for at in range(max(len(theirs), len(ours))):
            there, here = (told[at] if at < len(told) else None for told in (theirs, ours))
            yield from _lines(there, here, _join(path, str(at)))
    elif theirs != ours:
        yield f"{path}: {_shown(theirs)} -> {_shown(ours)}"


def _in_order(theirs: list[Any], ours: list[Any]) -> tuple[list[Any], list[Any], bool]:
    """Replies by their ids, and whether they have come so on both sides."""
    ids = [[reply.get("id", 0) for reply in replies] for replies in (theirs, ours)]
    if ids[0] == ids[1] or sorted(ids[0]) != sorted(ids[1]):
        return theirs, ours, True
    by_id = [sorted(replies, key=lambda reply: reply.get("id", 0)) for replies in (theirs, ours)]
    return by_id[0], by_id[1], False


def _join(path: str, name: str) -> str:
    """Step, client and the rest stand apart."""
    return f"{path} {name}" if path.count(" ") < 2 and "." not in path else f"{path}.{name}"


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, sort_keys=True)
