"""Where fastimd answers otherwise than Centrifugo, and wants to; docs/LIVE.md gives the reasons.

The lines are those of ``compare.py``: what Centrifugo said, and what fastimd says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """One decision: its name on the page, and the lines of the scripts that show it."""

    title: str
    scripts: Mapping[str, Sequence[str]]


NOT_SERVED_YET: tuple[str, ...] = ()
"""Scripts that ask for what the daemon is still to serve."""

DIFFERENCES: tuple[Difference, ...] = ()
