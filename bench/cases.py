"""The cases to measure, on the seed's wire and on the live wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from servers import Centrifugo, Fastimd, Nchan, SendLoop, Server


@dataclass(frozen=True)
class Case:
    """One measurement.

    Args:
        only: the servers that it is about; all if there are none.
        is_long: whether it is part of the full run alone.
    """

    name: str
    mode: str
    spec: dict[str, Any]
    only: tuple[type[Server], ...] = ()
    is_long: bool = False

    def concerns(self, server: type[Server]) -> bool:
        """Whether it is about a server."""
        return server in self.only if self.only else server is not SendLoop


PRODUCTS = (Fastimd, Nchan, Centrifugo)
"""Those that people run, beside peers that were written by hand for this."""

PEAK = "talk 100 x 5"
"""Its throughput is the peak, of which other cases take a share."""

CASES = (
    Case("burst 10", "burst", {"members": 10}, PRODUCTS, is_long=True),
    Case("burst 100", "burst", {"members": 100}),
    Case("burst 1000", "burst", {"members": 1000}),
    Case("burst 5000", "burst", {"members": 5000}, PRODUCTS),
    Case("burst 10000", "burst", {"members": 10_000}, PRODUCTS, is_long=True),
    Case(PEAK, "talk", {"groups": 100, "members": 5, "in_flight": 1}),
    Case("talk 20 x 25", "talk", {"groups": 20, "members": 25, "in_flight": 1}),
    *(
        Case(
            f"talk {n} x 5",
            "talk",
            {"groups": n, "members": 5, "in_flight": 1},
            PRODUCTS,
            is_long=True,
        )
        for n in (1, 10, 1000)
    ),
    Case(
        "one at a time to 1000",
        "burst",
        {"members": 1000, "in_flight": 1, "at_once": 1},
        (Fastimd, SendLoop),
    ),
    *(
        Case(
            f"{share} % of the peak", "talk", {"groups": 100, "members": 5}, PRODUCTS, is_long=True
        )
        for share in (10, 25, 75, 90)
    ),
    Case("50 % of the peak", "talk", {"groups": 100, "members": 5}),
    # So slowly that each message goes its way alone: many in one group would be written together.
    Case("1 group", "talk", {"groups": 1, "members": 1, "rate": 400.0}, (Fastimd,)),
    Case("10000 groups", "talk", {"groups": 10_000, "members": 1, "rate": 400.0}, (Fastimd,)),
    Case("idle 1000", "idle", {"groups": 100, "members": 10}, PRODUCTS, is_long=True),
    Case("idle 5000", "idle", {"groups": 500, "members": 10}),
    Case("idle 10000", "idle", {"groups": 1000, "members": 10}, PRODUCTS, is_long=True),
    Case("storm 10000", "storm", {"groups": 1000, "members": 10}, PRODUCTS),
)

LISTS: dict[str, dict[str, Any]] = {
    f"lists, {active} active": {
        "members": 5000,
        "groups": 10_000,
        "groups_each": 20,
        "active": active,
        "rate": 1.0,
        "joined": True,
    }
    for active in (0, 100)
}

LIVE_CASES = (
    Case("burst 100", "burst", {"members": 100}),
    Case("burst 1000", "burst", {"members": 1000}),
    Case(PEAK, "talk", {"groups": 100, "members": 5, "in_flight": 1}),
    Case("talk 20 x 25", "talk", {"groups": 20, "members": 25, "in_flight": 1}),
    Case("50 % of the peak", "talk", {"groups": 100, "members": 5}),
    # One after the other: what many at once save is no saving for those that come by and by.
    Case("idle 3000 in 1", "idle", {"groups": 300, "members": 10, "opening": 1}),
    Case("idle 2000 in 20", "idle", {"groups": 200, "members": 10, "groups_each": 20}),
    Case("storm 10000", "storm", {"groups": 1000, "members": 10}),
)
"""``idle N in M``: sockets, and subscriptions of each."""
