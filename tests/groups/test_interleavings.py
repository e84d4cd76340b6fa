"""Whatever is done to Redis, in whatever order: what members must hear (see ``strange``).

The suite tries it for some seconds. For longer::

    FASTIMD_INTERLEAVINGS_SECONDS=3600 pytest tests/groups/test_interleavings.py --timeout=0

``FASTIMD_INTERLEAVINGS_SEED`` is the seed, or ``SEED/NUMBER`` to begin with that schedule: what is
done is the same again, though not what it meets. ``FASTIMD_INTERLEAVINGS_FAILURES`` is how many
schedules may fail before the end, ``FASTIMD_INTERLEAVINGS_WITHOUT`` names harms to leave out,
separated by commas.
"""

from __future__ import annotations

import os
import random
from functools import partial
from pathlib import Path

import pytest
import trio
from strange import HARMS, run_schedules

SECONDS = float(os.environ.get("FASTIMD_INTERLEAVINGS_SECONDS", "12"))
SEED = os.environ.get("FASTIMD_INTERLEAVINGS_SEED") or str(random.randrange(10**9))
FAILURES = int(os.environ.get("FASTIMD_INTERLEAVINGS_FAILURES", "1"))
WITHOUT = [name for name in os.environ.get("FASTIMD_INTERLEAVINGS_WITHOUT", "").split(",") if name]


@pytest.mark.timeout(SECONDS + 90)
def test_every_member_hears_what_is_stored_whatever_is_done_to_redis(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two daemons, two groups, a seeded schedule of harms, again and again."""
    assert set(WITHOUT) <= HARMS.keys(), f"the harms are {', '.join(HARMS)}"
    seed, _, first = SEED.partition("/")
    run = partial(
        run_schedules,
        tmp_path,
        seed=int(seed),
        first=int(first or 0),
        seconds=SECONDS,
        most_broken=FAILURES,
        without=WITHOUT,
    )
    tally = trio.run(run)
    with capsys.disabled():
        print(
            f"\ninterleavings: seed {seed}, {tally.schedules} schedules, {tally.harms} harms,"
            f" {tally.deliveries} deliveries judged, {len(tally.broken)} schedules failed"
        )
    if tally.broken:
        pytest.fail("\n\n".join(tally.broken), pytrace=False)
    assert tally.schedules
