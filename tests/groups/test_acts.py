"""What is told of acts, and what becomes of the membership of the banned."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from fastimd.base.errors import KeyUnusable, StoreUnavailable
from fastimd.base.metrics import Metrics
from fastimd.groups.events import MODERATION, PolicyChange
from fastimd.groups.moderation.acts import OPERATOR, Moderation
from fastimd.groups.moderation.announcer import Announcer
from fastimd.groups.moderation.bodies import OfUser
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
