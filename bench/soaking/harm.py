"""What is done to the servers and the people of a soak, dealt at random by a seed."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

import trio
from redis.exceptions import RedisError
from servers import NotStarted

FAILURES = (TimeoutError, NotStarted, RedisError, OSError)


@dataclass(frozen=True)
class Harm:
    """One kind of harm.

    Args:
        name: what a table calls it.
        target: what it is done to; two harms to the same wait for each other.
        do: do it, and wait until all that was harmed serves again.
    """

    name: str
    target: str
    do: Callable[[random.Random], Awaitable[None]]


class Dealer:
    """Deals harms as cards: each kind comes once, in any order, before one comes again.

    ``done`` counts those that were done, ``failed`` those after which something did not come back.
    """

    def __init__(self, harms: Sequence[Harm], seed: str, per_minute: float) -> None:
        self.done: Counter[str] = Counter({harm.name: 0 for harm in harms})
        self.failed: Counter[str] = Counter()
        self._harms = list(harms)
        self._random = random.Random(f"{seed} harms")
        self._pause = 60 / per_minute if per_minute else 0.0
        self._locks: dict[str, trio.Lock] = defaultdict(trio.Lock)

    async def run(self, until: float) -> None:
        """Do harm until a time of the clock; returns when all that was begun is done."""
        if not self._pause:
            await trio.sleep_until(until)
            return
        async with trio.open_nursery() as nursery:
            for harm in self._deal():
                next_at = trio.current_time() + self._random.expovariate(1 / self._pause)
                await trio.sleep_until(min(next_at, until))
                if next_at >= until:
                    return
                nursery.start_soon(self._do, harm, random.Random(self._random.random()))

    async def _do(self, harm: Harm, rng: random.Random) -> None:
        async with self._locks[harm.target]:
            try:
                await harm.do(rng)
            except FAILURES as exc:
                self.failed[f"{harm.name}: {exc}"] += 1
        self.done[harm.name] += 1

    def _deal(self) -> Iterator[Harm]:
        while True:
            cards = self._harms[:]
            self._random.shuffle(cards)
            yield from cards
