"""Who is here, on a cluster: ids of every form, slots that move, masters and daemons that die."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from clusters import Cluster, cluster
from conftest import Daemon, run_daemon
from members import OUT_SECONDS, Member, member

from fastimd.redis.cluster.slots import slot_of

GROUPS = ["7", "{7}", "a{b}c", "{}", "two words", "房间", *(f"room-{n}" for n in range(6))]


@pytest.fixture
def spread(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path / "cluster") as made:
        yield made


async def stay(stack: AsyncExitStack, daemon: Daemon, user: str) -> Member:
    """A member of all groups, who is told of joins and leaves."""
    client = await stack.enter_async_context(member(daemon, user))
    for group in GROUPS:
        assert await client.code("subscribe", channel=group, join_leave=True) == 0
    return client


def told(client: Member, what: str, user: str) -> list[str]:
    """In which groups a member was told that a user has come or gone."""
    pushes = [push for push in client.pushes if what in push]
    return sorted(push["channel"] for push in pushes if push[what]["info"]["user"] == user)


async def wait_all(client: Member, count: int) -> None:
    """Wait until each group has so many."""
    for group in GROUPS:
        await client.wait_counts(group, (count, count))


async def test_members_are_known_whatever_happens_to_a_cluster(
    spread: Cluster, tmp_path: Path
) -> None:
    daemons = [run_daemon(tmp_path, spread.url, wait_serving=True) for _ in range(2)]
    async with AsyncExitStack() as stack:
        ann, ben = [
            await stay(stack, daemon, user)
            for daemon, user in zip(daemons, ("ann", "ben"), strict=True)
        ]
        await wait_all(ann, 2)
        masters = [spread.owner_of(slot_of(f"fastimd:here:{group}")) for group in GROUPS]
        assert len({master.port for master in masters}) == 3, "a master has no group: add some"
        for group in GROUPS:
            assert await ben.users(group) == ["ann", "ben"]

        spread.reshard(masters[0], masters[1], 3000)
        async with AsyncExitStack() as guests:
            await stay(guests, daemons[0], "carl")
            await wait_all(ben, 3)
        await wait_all(ben, 2)

        masters[0].kill()
        spread.wait_failed_over(masters[0])
        async with AsyncExitStack() as guests:
            await stay(guests, daemons[1], "dave")
            await wait_all(ann, 3)

        daemons[1].process.kill()
        daemons[1].expected_status = -signal.SIGKILL
        await wait_all(ann, 1)
        with trio.fail_after(OUT_SECONDS):
            while (left := told(ann, "leave", "ben")) != sorted(GROUPS):
                assert len(left) < len(GROUPS)
                await trio.sleep(0.2)
                await ann.ask("ping")
        for guest in ("carl", "dave"):
            assert told(ann, "join", guest) == told(ann, "leave", guest) == sorted(GROUPS)
        assert not told(ann, "leave", "ann")
    for daemon in daemons:
        assert daemon.stop() == daemon.expected_status
        assert not daemon.events("task.crashed")
