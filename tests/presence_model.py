"""What present.lua and renew.lua do, told in Python: groups, with the members of each daemon."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field

from fastimd.groups.store.presence import AWAY, Change, Roll


@dataclass
class Entry:
    """A daemon in a group."""

    lease: float
    wants: bool
    clients: int
    users: int
    noted: int


@dataclass
class Group:
    """One group's keys; ``members`` outlive their daemon's entry."""

    born: float | None = None
    version: int = 0
    daemons: dict[str, Entry] = field(default_factory=dict)
    members: dict[str, dict[str, bytes]] = field(default_factory=dict)


class Model:
    """All groups.

    Args:
        publish: gets the id of a daemon, the version, who came with their values, who has gone.
    """

    def __init__(
        self, publish: Callable[[str, str, int, list[tuple[str, bytes]], list[str]], None]
    ) -> None:
        self.groups: dict[str, Group] = {}
        self._publish = publish

    def lose(self) -> None:
        """FLUSHALL."""
        self.groups.clear()

    def saved(self) -> dict[str, Group]:
        """All groups as they are now, as a replica may have them a moment later."""
        return deepcopy(self.groups)

    def restore(self, groups: dict[str, Group]) -> None:
        """A replica has become the master, which has not heard of later changes."""
        self.groups = deepcopy(groups)

    def present(
        self,
        name: str,
        me: str,
        change: Change,
        announced: int,
        listed: int,
        now: float,
        lease: float,
    ) -> Roll | None:
        """As the script; times are in milliseconds."""
        group = self.groups.setdefault(name, Group())
        mine = group.members.setdefault(me, {})
        entry = group.daemons.get(me)
        is_there = self._has(entry, mine, change.had, change.noted, now)
        if change.how != "anew" and change.had and not is_there:
            return None
        dead = [each for each, other in group.daemons.items() if other.lease < now]
        for each in dead:
            del group.daemons[each]
        if group.born is None:
            group.born, group.version = now, int(now)
        before = group.version
        others = [group.members[each] for each in group.daemons if each != me]
        come: list[tuple[str, bytes]] = []
        gone: list[str] = []
        if change.how == "anew":
            mine.clear()
        for user, value in change.values:
            was = mine.get(user)
            if value:
                mine[user] = value
            else:
                mine.pop(user, None)
            if change.how == "told":
                is_here = value not in (b"", AWAY)
                was_here = was not in (None, AWAY)
                elsewhere = [other[user] for other in others if user in other]
                if is_here and not was_here and all(each == AWAY for each in elsewhere):
                    come.append((user, value))
                elif was is not None and not value and not elsewhere:
                    gone.append(user)
        group.version += bool(come or gone or dead or change.how != "told")
        group.daemons.pop(me, None)
        if change.fields:
            group.daemons[me] = Entry(
                now + lease, change.wants, change.clients, change.users, group.version
            )
        else:
            mine.clear()
        roll = self._roll(group, before, dead, come, gone, listed, len(mine))
        if not group.daemons:
            group.born = None
        elif (come or gone) and roll.users <= announced:
            for each, other in group.daemons.items():
                if other.wants and each != me:
                    self._publish(each, name, group.version, come, gone)
        return roll

    def renew(self, name: str, me: str, had: int, noted: int, now: float, lease: float) -> bool:
        """As renew.lua."""
        group = self.groups.get(name, Group())
        entry = group.daemons.get(me)
        if entry is None or not self._has(entry, group.members.get(me, {}), had, noted, now):
            return False
        entry.lease = now + lease
        return True

    @staticmethod
    def _has(entry: Entry | None, mine: dict[str, bytes], had: int, noted: int, now: float) -> bool:
        """Whether a daemon's members are as they were after its last change."""
        is_there = entry is not None and entry.lease >= now and entry.noted == noted
        return is_there and len(mine) == had

    def _roll(
        self,
        group: Group,
        before: int,
        dead: list[str],
        come: list[tuple[str, bytes]],
        gone: list[str],
        listed: int,
        fields: int,
    ) -> Roll:
        there = [group.members[each] for each in group.daemons]
        users = {user for each in there for user, value in each.items() if value != AWAY}
        clients = sum(entry.clients for entry in group.daemons.values())
        everybody = [pair for each in there for pair in each.items()]
        return Roll(
            f"{group.born:.0f}",
            before,
            group.version,
            clients,
            len(users),
            fields,
            bool(dead),
            come,
            gone,
            everybody if listed >= 0 and clients <= listed else None,
        )
