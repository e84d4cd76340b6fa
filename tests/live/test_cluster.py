"""A cluster under four talkers: see ``four_talkers.py`` for what must hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from clusters import NODE_TIMEOUT, Cluster, cluster
from four_talkers import GROUP, house
from sentinels import Process

SLOTS_MOVED = 6000
"""More than one of three masters has."""


@pytest.fixture
def spread(tmp_path: Path) -> Iterator[Cluster]:
    """Three masters with a replica each."""
    with cluster(tmp_path / "cluster") as made:
        yield made


def another(redis: Cluster, master: Process) -> Process:
    """A master that has not the group."""
    return next(node for node in redis.nodes[:3] if node is not master)


def kill(redis: Cluster, master: Process) -> None:
    """SIGKILL, and its replica takes over."""
    master.kill()
    redis.wait_failed_over(master)
    redis.wait_well()


def kill_another(redis: Cluster, master: Process) -> None:
    """A group is left alone by what becomes of another one's master."""
    kill(redis, another(redis, master))


def move(redis: Cluster, master: Process) -> None:
    """All slots of the master go to another one, the group's among them."""
    redis.reshard(master, another(redis, master), SLOTS_MOVED)
    redis.wait_well()
    assert redis.master_of(GROUP) is not master


def enlarge(redis: Cluster, master: Process) -> None:
    """A node is added, and gets the slots."""
    node = redis.add()
    node.start()
    redis.meet(node)
    redis.wait_known(node)
    redis.reshard(master, node, SLOTS_MOVED)
    redis.wait_well()
    assert redis.master_of(GROUP) is node


def fail_over(redis: Cluster, master: Process) -> None:
    """An operator asks the replica to take over, as before an upgrade: nothing is lost."""
    redis.replica_of(master).ask("CLUSTER", "FAILOVER")
    redis.wait_failed_over(master)
    redis.wait_well()


def cut(redis: Cluster, master: Process) -> None:
    """All connections of all nodes break."""
    for node in redis.living:
        for kind in ("normal", "pubsub"):
            node.ask("CLIENT", "KILL", "TYPE", kind)


def lose_another(redis: Cluster, master: Process) -> None:
    """Another master and its replica are gone for some seconds, and nobody has their slots."""
    gone = another(redis, master)
    pair = [gone, redis.replica_of(gone)]
    for node in redis.living:
        node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
    for node in pair:
        node.kill()
    time.sleep(3 * NODE_TIMEOUT / 1000)
    for node in pair:
        node.start()
    redis.wait_well()


@pytest.mark.parametrize(
    "change", [kill, lose_another, kill_another, move, enlarge, fail_over, cut]
)
@pytest.mark.timeout(120)
async def test_a_cluster_under_four_talkers(
    change: Callable[[Cluster, Process], None],
    spread: Cluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only the death of the group's master may lose what was heard: what its replica had not."""
    async with house(tmp_path, spread) as rooms:
        await trio.to_thread.run_sync(change, spread, spread.master_of(GROUP))
        await rooms.wait_further()
    assert not rooms.lost or change is kill
    with capsys.disabled():
        print(f"\ncluster, {change.__name__}: {'; '.join(rooms.report)}")
