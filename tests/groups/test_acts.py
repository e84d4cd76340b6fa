"""What is told of acts, and what becomes of the membership of the banned."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from fastimd.base.errors import KeyUnusable, Refused, StoreUnavailable
from fastimd.base.metrics import Metrics
from fastimd.groups.events import MODERATION, PolicyChange
from fastimd.groups.moderation.acts import OPERATOR, Actor, Moderation
from fastimd.groups.moderation.announcer import Announcer
from fastimd.groups.moderation.bodies import Complaint, OfGroup, OfUser, Report
from fastimd.groups.moderation.methods import METHODS
from fastimd.groups.moderation.policies import Policies
from fastimd.groups.store import Store
from fastimd.groups.store.members import Members
from fastimd.groups.store.policy import Policies as StoredPolicies
from fastimd.hooks.tellings import Tellings


class CutOff:
    """A deletion of which so many messages are deleted before Redis is away."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.is_over = False

    async def run(self) -> None:
        raise StoreUnavailable("away")


@pytest.mark.parametrize("count", [0, 3])
async def test_a_deletion_that_is_cut_off_is_told_as_far_as_it_came(count: int) -> None:
    """What was deleted is gone; and who asked is told that it is not over."""
    told: list[Any] = []

    async def tell(name: str, act: Any) -> None:
        told.append((name, act.count))

    removals = SimpleNamespace(deletion_of=lambda *_: CutOff(count))
    moderation = Moderation(
        cast(Store, SimpleNamespace(removals=removals)),
        cast(Policies, None),
        cast(Tellings, SimpleNamespace(tell=tell)),
        Metrics(),
    )
    with capture_logs() as logged, pytest.raises(StoreUnavailable):
        await moderation.delete_messages_of(OPERATOR, OfUser(channel="1", user="3"))
    assert told == ([("on_moderation", 3)] if count else [])
    assert [line["messages"] for line in logged] == ([3] if count else [])


BODIES: dict[str, dict[str, Any]] = {
    "ban": {"user": "5", "seconds": 60},
    "unban": {"user": "5"},
    "mute": {"user": "5", "seconds": 60},
    "unmute": {"user": "5"},
    "slow_mode": {"seconds": 5},
    "mute_all": {"on": True},
    "moderators": {},
    "delete_message": {"ts": 1000},
    "delete_messages_of": {"user": "5"},
    "reports": {},
    "dismiss": {"ts": 1000},
}
"""One for each method; all name a group besides."""


@pytest.mark.parametrize("name", METHODS)
async def test_each_method_is_for_moderators_alone(name: str) -> None:
    """Who is none changes and reads nothing: the store is not even asked."""

    async def read(_group: str) -> Any:
        return SimpleNamespace(moderators={"3"})

    moderation = Moderation(
        cast(Store, None),
        cast(Policies, SimpleNamespace(read=read)),
        cast(Tellings, None),
        Metrics(),
    )
    method = METHODS[name]
    body = method.body(channel="1", **BODIES[name])
    with pytest.raises(Refused, match="not a moderator of this group"):
        await method.call(moderation, Actor("4"), body)


async def test_who_has_the_role_or_is_an_operator_costs_no_reading() -> None:
    """Where nobody is put out, the policy says nothing that matters."""

    async def everything(_group: str) -> list[Report]:
        return []

    moderation = Moderation(
        cast(Store, SimpleNamespace(reports=SimpleNamespace(all=everything))),
        cast(Policies, None),
        cast(Tellings, None),
        Metrics(),
    )
    for by in (OPERATOR, Actor("boss", has_role=True)):
        assert await moderation.reports(by, OfGroup(channel="1")) == []


@pytest.mark.parametrize(("outcome", "tells"), [("done", True), ("known", False)])
async def test_a_report_is_told_once(outcome: str, tells: bool) -> None:
    """Again, it is answered and changes nothing."""
    told: list[Any] = []

    async def add(*_: object) -> tuple[str, str]:
        return outcome, "3"

    async def tell(name: str, each: Any) -> None:
        told.append((name, each.user_id))

    moderation = Moderation(
        cast(Store, SimpleNamespace(reports=SimpleNamespace(add=add))),
        cast(Policies, None),
        cast(Tellings, SimpleNamespace(tell=tell)),
        Metrics(),
    )
    with capture_logs() as logged:
        await moderation.report("4", Complaint(channel="1", ts=1000, reason="rude"))
    assert told == [("on_report", "3")] * tells
    assert [line["event"] for line in logged] == ["moderation.report"] * tells


class Leaving:
    """Memberships that end, as long as Redis lets them."""

    def __init__(self) -> None:
        self.left: list[tuple[str, str]] = []
        self.failure: Exception | None = None

    async def leave(self, group: str, user: str) -> bool:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        self.left.append((group, user))
        return True


@pytest.fixture
def members() -> Leaving:
    return Leaving()


@pytest.fixture
def announcer(nursery: trio.Nursery, members: Leaving) -> Announcer:
    """It has all groups open, and nobody to tell."""
    made = Announcer(
        cast(Policies, SimpleNamespace(receive=lambda _: None, find=lambda group: group)),
        cast(StoredPolicies, None),
        cast(Members, members),
        lambda _: {},
        lambda *_: True,
    )
    nursery.start_soon(made.run)
    return made


def act(name: str, user: str = "3", group: str = "1") -> PolicyChange:
    return PolicyChange(group, MODERATION, name, user)


async def test_the_membership_of_the_banned_ends_once_more(
    autojump_clock: MockClock, announcer: Announcer, members: Leaving
) -> None:
    """Who was on the way in when the ban came may have joined after it."""
    for name in ("mute", "ban", "moderator_added"):
        assert not announcer.receive(act(name, user=name), b"")
    await wait_all_tasks_blocked()
    assert members.left == [("1", "ban")]


async def test_it_ends_when_redis_is_back_if_the_ban_holds_still(
    autojump_clock: MockClock, announcer: Announcer, members: Leaving
) -> None:
    """Whoever was let in again meanwhile stays."""
    members.failure = StoreUnavailable("away")
    announcer.receive(act("ban"), b"")
    announcer.receive(act("ban", user="4"), b"")
    await trio.sleep(1)
    announcer.receive(act("unban"), b"")
    members.failure = None
    await trio.sleep(1)
    assert members.left == [("1", "4")]


async def test_a_user_whose_groups_cannot_be_used_keeps_nobody_waiting(
    autojump_clock: MockClock, announcer: Announcer, members: Leaving
) -> None:
    """It is logged elsewhere."""
    members.failure = KeyUnusable("ugs:3", "WRONGTYPE")
    announcer.receive(act("ban"), b"")
    await trio.sleep(1)
    members.failure = None
    announcer.receive(act("ban", user="4"), b"")
    await trio.sleep(1)
    assert members.left == [("1", "4")]
