"""Group lists of a cluster, one master of which is gone for a while: others are shown as ever."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count, pairwise
from pathlib import Path

import pytest
import trio
from clients import closing
from clusters import Cluster, cluster
from conftest import Daemon, run_daemon
from resuming import until
from sentinels import Process
from trio_websocket import open_websocket_url

from fastimd.redis.cluster.slots import slot_of
from fastimd.redis.keeping import CALL_SECONDS

UPDATE_RATE = 0.2
GONE_SECONDS = 12.0
"""Longer than it takes to find out that a connection is silent."""
PAUSE_SECONDS = 0.1


@pytest.fixture
def spread(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster that goes on when some of its slots have no master."""
    with cluster(tmp_path / "cluster") as made:
        for node in made.living:
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        yield made


@pytest.fixture
def daemon(spread: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    """One on it."""
    running = run_daemon(tmp_path, spread.url, group_list__update_rate=str(UPDATE_RATE))
    yield running
    assert running.stop() == 0
    assert not [line for line in running.lines if "exception" in line], running.log_path


def stand_still(redis: Cluster, master: Process) -> Callable[[], None]:
    """SIGSTOP, of its replica too: nobody takes over."""
    pair = [redis.replica_of(master), master]
    for node in pair:
        node.pause()

    def go_on() -> None:
        for node in pair:
            node.resume()
        redis.wait_well()

    return go_on


def stop(redis: Cluster, master: Process) -> Callable[[], None]:
    """SIGSTOP: its replica takes over, and it comes back as one."""
    master.pause()

    def go_on() -> None:
        master.resume()
        redis.wait_failed_over(master)
        redis.wait_well()

    return go_on


def kill(redis: Cluster, master: Process) -> Callable[[], None]:
    """SIGKILL, and its replica takes over."""
    master.kill()

    def go_on() -> None:
        redis.wait_failed_over(master)
        redis.wait_well()

    return go_on


@dataclass
class Talker:
    """Says numbers in a group, one after the other, and knows when each was heard."""

    group: str
    said: list[float] = field(default_factory=list)
    is_over: bool = False

    async def talk(self, daemon: Daemon, times: float = math.inf) -> None:
        async with open_websocket_url(daemon.chat_url(self.group, "talker")) as connection:
            await connection.get_message()
            while times > 0 and not self.is_over:
                times -= 1
                await connection.send_message(str(len(self.said)))
                assert json.loads(await connection.get_message())["info"] == str(len(self.said))
                self.said.append(trio.current_time())
                await trio.sleep(PAUSE_SECONDS)


@dataclass(eq=False)
class Listing:
    """What a list socket is shown, and when: the newest numbers by the names of groups."""

    user: str
    shown: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    async def listen(self, daemon: Daemon) -> None:
        async with open_websocket_url(daemon.list_url(self.user)) as connection:
            while True:
                text = await connection.get_message()
                self.texts.append(str(text))
                newest = [each["newMessage"] for each in json.loads(text)]
                assert all(newest), "a group was shown as empty"
                numbers = {each["groupId"]: int(each["info"]) for each in newest}
                self.shown.append((trio.current_time(), numbers))

    def longest(self, talker: Talker) -> float:
        """The longest that a number, or a later one, was not shown after it was heard."""
        longest = 0.0
        shown = iter(self.shown)
        opened_at, numbers = when, _ = next(shown)
        for number, said_at in enumerate(talker.said):
            while numbers[talker.group] < number:
                when, numbers = next(shown)
            longest = max(longest, when - max(said_at, opened_at))
        return longest

    def has_all(self, talkers: Iterable[Talker]) -> bool:
        """Whether it shows the newest of each, and of nobody else."""
        newest = {talker.group: len(talker.said) - 1 for talker in talkers}
        return bool(self.shown) and self.shown[-1][1] == newest


class Town:
    """Groups and users by where their keys lie."""

    def __init__(self, redis: Cluster, victim: Process) -> None:
        self._redis = redis
        self._victim = victim
        self._numbers = count()

    def group(self, *, is_lost: bool) -> str:
        """A group of the master that will be gone, or of another."""
        return self._find("group-{}", "gml:group-{}", is_lost)

    def user(self, talkers: list[Talker], *, is_lost: bool = False) -> str:
        """A user in the groups of these."""
        name = self._find("user-{}", "ugs:user-{}", is_lost)
        key = f"ugs:{name}"
        self._redis.owner_of(slot_of(key)).client.sadd(key, *(talker.group for talker in talkers))
        return name

    def _find(self, name: str, key: str, is_lost: bool) -> str:
        return next(
            name.format(number)
            for number in self._numbers
            if (self._redis.owner_of(slot_of(key.format(number))) is self._victim) == is_lost
        )


async def open_listing(nursery: trio.Nursery, daemon: Daemon, user: str) -> Listing:
    """Open the list socket of a user, and wait for its first list."""
    made = Listing(user)
    nursery.start_soon(made.listen, daemon)
    await until(lambda: made.shown, lambda: f"no list of {user}")
    return made


@pytest.mark.parametrize("go", [stand_still, stop, kill])
@pytest.mark.timeout(120)
async def test_a_master_that_is_gone_keeps_back_its_own_groups_alone(
    go: Callable[[Cluster, Process], Callable[[], None]],
    spread: Cluster,
    daemon: Daemon,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All others are shown in time, also to members of its groups; in the end all is, and once."""
    town = Town(spread, spread.nodes[1])
    living = [Talker(town.group(is_lost=False)) for _ in range(4)]
    known, unknown = lost = [Talker(town.group(is_lost=True)) for _ in range(2)]
    everywhere = town.user([*living, known])
    nowhere = town.user([unknown])
    from_there = town.user([*living, known], is_lost=True)
    later = town.user([*living, unknown])
    async with trio.open_nursery() as nursery:
        for talker in lost:
            await talker.talk(daemon, 2)
        for talker in living:
            nursery.start_soon(talker.talk, daemon)
        await until(lambda: all(talker.said for talker in living), lambda: "nobody talks")
        lists = {
            await open_listing(nursery, daemon, town.user(living)): living,
            await open_listing(nursery, daemon, everywhere): [*living, known],
            await open_listing(nursery, daemon, from_there): [*living, known],
        }
        began = trio.current_time()
        go_on = await trio.to_thread.run_sync(go, spread, spread.nodes[1])
        late = await open_listing(nursery, daemon, later)
        lists[late] = [*living, unknown]
        if go is stand_still:
            assert late.shown[0][1].keys() == {talker.group for talker in living}
            async with open_websocket_url(daemon.list_url(nowhere)) as refused:
                assert await closing(refused) == (1013, "try again later")
        await trio.sleep_until(began + GONE_SECONDS)
        await trio.to_thread.run_sync(go_on)
        for talker in lost:
            await talker.talk(daemon, 2)
        for talker in living:
            talker.is_over = True
        for listing, talkers in lists.items():
            await until(partial(listing.has_all, talkers), partial(repr, listing.shown[-1:]))
        nursery.cancel_scope.cancel()
    longest = max(listing.longest(talker) for listing in lists for talker in living)
    with capsys.disabled():
        print(f"\nlists, {go.__name__}: shown at most {longest:.2f} s after it was heard")
    assert longest < CALL_SECONDS
    for listing in lists:
        assert all(now != before for before, now in pairwise(listing.texts))
