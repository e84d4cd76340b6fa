"""What several processes count, as the counts of one.

Counters never fall: what a worker had counted when it died is carried on, as far as it was asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a sample, and its labels."""

FIRST = frozenset(("fastimd_build_info", "process_start_time_seconds"))
"""Families of which the first process speaks for all."""
LEAST = frozenset(("fastimd_redis_up",))
MOST = frozenset(("fastimd_redis_masters", "fastimd_events_oldest_seconds"))
"""Families of which the least or the greatest value holds for all; all others are added up."""

_GROWING = frozenset(("counter", "histogram"))


@dataclass(slots=True)
class Family:
    """The samples of one metric."""

    documentation: str
    kind: str
    samples: dict[Key, float] = field(default_factory=dict)


Families: TypeAlias = dict[str, Family]


def read_families(metrics: Iterable[Metric]) -> Families:
    """The families of one scrape, by their names."""
    return {
        metric.name: Family(
            metric.documentation,
            metric.type,
            {
                (sample.name, tuple(sorted(sample.labels.items()))): sample.value
                for sample in metric.samples
            },
        )
        for metric in metrics
    }


class Lives:
    """What a worker has counted in all its lives."""

    def __init__(self) -> None:
        self._pid: int | None = None
        self._past: Families = {}
        self._last: Families = {}

    def take(self, pid: int | None, families: Families) -> Families:
        """The families of its process now, with what those before it had counted."""
        if pid != self._pid:
            self._pid, self._past, self._last = pid, self.counts(), {}
        self._last = families
        return add_up((families, self._past))

    def counts(self) -> Families:
        """What it has counted so far, when it cannot be asked."""
        known = add_up((self._last, self._past))
        return {name: family for name, family in known.items() if family.kind in _GROWING}


def add_up(sources: Iterable[Mapping[str, Family]]) -> Families:
    """The families of the whole, from those of each process."""
    whole: Families = {}
    for source in sources:
        for name, family in source.items():
            known = whole.setdefault(name, Family(family.documentation, family.kind))
            if name in FIRST and known.samples:
                continue
            for key, value in family.samples.items():
                before = known.samples.get(key)
                if before is None:
                    known.samples[key] = value
                elif name in LEAST:
                    known.samples[key] = min(before, value)
                elif name in MOST:
                    known.samples[key] = max(before, value)
                else:
                    known.samples[key] = before + value
    return whole


class Shown(Collector):
    """Families, for a registry."""

    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """The metrics of one scrape."""
        for name, family in self._families.items():
            metric = Metric(name, family.documentation, family.kind)
            for (sample, labels), value in family.samples.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric
