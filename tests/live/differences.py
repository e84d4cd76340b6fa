"""Where fastimd answers otherwise than Centrifugo, and wants to: ``differences.toml``, read.

Each difference is one decision, with its name in docs/LIVE.md, which gives the reason, and with the
scripts that show it. Their lines are those of ``likeness.py``: what Centrifugo said, and what
fastimd says.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

Scripts = Mapping[str, Sequence[str]]

_table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())

NOT_SERVED_YET: Sequence[str] = _table["not_served_yet"]
"""Scripts that ask for what the daemon is still to serve."""

DIFFERENCES: Mapping[str, Scripts] = {one["title"]: one["scripts"] for one in _table["difference"]}
"""The scripts of each difference, by its title."""
