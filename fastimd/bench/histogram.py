"""Durations counted in buckets, so that millions of them cost little and can be added up."""

from __future__ import annotations

from collections.abc import Iterable

_BITS = 6
"""Buckets of a power of two: 64, so that a duration is known to within 1.6 %."""


class Histogram:
    """Counts durations, ns."""

    def __init__(self, counts: dict[int, int] | None = None) -> None:
        self.counts = counts if counts is not None else {}

    def add(self, duration: int) -> None:
        """Count one; what is less than nothing, by clocks of two processors, is nothing."""
        shift = max(0, duration.bit_length() - _BITS - 1)
        bucket = max(0, (shift << _BITS) + (duration >> shift))
        self.counts[bucket] = self.counts.get(bucket, 0) + 1

    def merge(self, others: Iterable[Histogram]) -> Histogram:
        """All of them together."""
        merged = Histogram(dict(self.counts))
        for other in others:
            for bucket, count in other.counts.items():
                merged.counts[bucket] = merged.counts.get(bucket, 0) + count
        return merged

    def quantile(self, share: float) -> float:
        """The duration in ms that ``share`` of all do not exceed; nan of nothing."""
        total = sum(self.counts.values())
        seen = 0
        for bucket, count in sorted(self.counts.items()):
            seen += count
            if seen >= share * total:
                return _middle(bucket) / 1e6
        return float("nan")


def _middle(bucket: int) -> float:
    shift = max(0, (bucket >> _BITS) - 1)
    return ((bucket - (shift << _BITS)) + 0.5) * (1 << shift) if shift else float(bucket)
