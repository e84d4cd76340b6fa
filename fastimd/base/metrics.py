"""What the daemon counts: plain integers on the hot path, Prometheus families when scraped.

A histogram is told once of a batch, with the number of what was in it: to tell it of each delivery
would cost more than the delivery.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping

import trio
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from .. import __version__

BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets, seconds: a ``ts`` is exact to 1 ms, and a held message may wait
``redis.hold_seconds``."""

LAG_INTERVAL = 0.1
"""Seconds from one look at the event loop to the next."""

_LIVE_CODES = frozenset((3001, 3004, 3005, 3008, 3012, 3013, 3500, 3501, 3502, 3503, 3507, 3508))
"""The close codes of the live wire. Clients may send any other, which no label is made of."""

_LABELS = (*map(str, BOUNDS), "+Inf")


class Histogram:
    """Durations in seconds, counted in the buckets of ``BOUNDS``."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * len(_LABELS)
        self._sum = 0.0

    def observe(self, seconds: float, count: int = 1) -> None:
        """Count a duration as often as it was had."""
        self._counts[bisect_left(BOUNDS, seconds)] += count
        self._sum += seconds * count

    def family(self, name: str, help_text: str) -> HistogramMetricFamily:
        """What a scrape shows of it."""
        family = HistogramMetricFamily(name, help_text)
        self.add_to(family)
        return family

    def add_to(self, family: HistogramMetricFamily, *labels: str) -> None:
        """Put into a family what a scrape shows of it."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for label, count in zip(_LABELS, self._counts, strict=True):
            total += count
            buckets.append((label, total))
        family.add_metric(labels, buckets, self._sum)


class Metrics(Collector):
    """The daemon's counters and histograms; gauges are callables that are asked at each scrape."""

    def __init__(self) -> None:
        self.sockets_opened = 0
        self.closes: dict[int, int] = {}
        self.connections_refused = 0
        self.connections_crashed = 0
        self.messages_received = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.appends_failed = 0
        self.deliveries = 0
        self.deliveries_shed = 0
        self.messages_shed = 0
        self.slow_closes = 0
        self.flood_closes = 0
        self.corrupt_entries = 0
        self.unusable_keys = 0
        self.foreign_ts = 0
        self.gap_repairs = 0
        self.messages_repaired = 0
        self.group_list_pushes = 0
        self.poller_batches = 0
        self.presence_dropped = 0
        self.tellings_dropped = 0
        self.presence_buried = 0
        self.event_gaps = 0
        self.commands: dict[tuple[str, str, str], int] = {}
        self.http_requests: dict[tuple[str, int], int] = {}
        self.redis_reconnects = {"commands": 0, "messages": 0}
        self.tokens_refused: dict[str, int] = {}
        self.jwks_reads = {"ok": 0, "failed": 0}
        self.moderation_acts: dict[str, int] = {}
        self.api_keys_refused = 0
        self.api_calls: dict[tuple[str, str, int], int] = {}
        self.api_seconds: dict[str, Histogram] = {}
        self.messages_restrained: dict[str, int] = {}
        self.append_seconds = Histogram()
        self.relay_seconds = Histogram()
        self.delivery_seconds = Histogram()
        self.event_loop_lag_seconds = Histogram()
        # From 0 on: Prometheus sees no increase in a series that begins with 1.
        self.events = {outcome: dict.fromkeys(_EVENTS, 0) for outcome in _EVENT_OUTCOMES}
        self.hook_calls: dict[tuple[str, str], int] = {}
        self.hook_seconds: dict[str, Histogram] = {}
        self._gauges: list[tuple[str, str, Callable[[], float]]] = []
        self._divided: list[tuple[str, str, str, Callable[[], Mapping[str, float]]]] = []

    def add_gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Offer a value that is read at each scrape."""
        self._gauges.append((name, help_text, read))

    def add_divided_gauge(
        self, name: str, help_text: str, label: str, read: Callable[[], Mapping[str, float]]
    ) -> None:
        """Offer a value for each of a few values of ``label``, all read at each scrape."""
        self._divided.append((name, help_text, label, read))

    def count_command(self, wire: str, command: str, outcome: str) -> None:
        """Count a command of the live wire: ``ok``, or the code of its error or of the close."""
        key = wire, command, outcome
        self.commands[key] = self.commands.get(key, 0) + 1

    def count_close(self, code: int) -> None:
        """Count one closed socket; codes that are none of fastimd's share a label."""
        known = code if 1000 <= code <= 1015 or code in _LIVE_CODES else 0
        self.closes[known] = self.closes.get(known, 0) + 1

    def count_request(self, route: str, status: int) -> None:
        """Count one HTTP answer."""
        self.http_requests[route, status] = self.http_requests.get((route, status), 0) + 1

    def count_hook(self, hook: str, outcome: str, seconds: float) -> None:
        """Count one call of a hook: ``ok``, ``refused`` or ``failed``."""
        self.hook_calls[hook, outcome] = self.hook_calls.get((hook, outcome), 0) + 1
        self.hook_seconds.setdefault(hook, Histogram()).observe(seconds)

    def count_api_call(self, method: str, key: str, code: int, seconds: float) -> None:
        """Count one call of the server API, by the name of its key and its error, 0 for none."""
        called = method, key, code
        self.api_calls[called] = self.api_calls.get(called, 0) + 1
        histogram = self.api_seconds.get(method)
        if histogram is None:
            histogram = self.api_seconds[method] = Histogram()
        histogram.observe(seconds)

    def count_event(self, outcome: str, event: str, count: int = 1) -> None:
        """Count events that a backend was told, or was not: ``delivered``, ``failed``, ``dropped``.

        Of what failed, requests are counted.
        """
        events = self.events[outcome]
        known = event if event in _EVENTS else "other"
        events[known] = events.get(known, 0) + count

    def count_token_refused(self, cause: str) -> None:
        """Count one JWT that was refused, by one of a few causes."""
        self.tokens_refused[cause] = self.tokens_refused.get(cause, 0) + 1

    def count_moderation_act(self, act: str) -> None:
        """Count what a moderator or an operator did, or a report."""
        self.moderation_acts[act] = self.moderation_acts.get(act, 0) + 1

    def count_restrained(self, why: str) -> None:
        """Count a message that moderators do not let through: ``muted``, for instance."""
        self.messages_restrained[why] = self.messages_restrained.get(why, 0) + 1

    def count_jwks_read(self, outcome: str) -> None:
        """Count one reading of a key set: ``ok`` or ``failed``."""
        self.jwks_reads[outcome] += 1

    async def watch_event_loop(self) -> None:
        """See how late the event loop wakes a task, until cancelled."""
        while True:
            due = trio.current_time() + LAG_INTERVAL
            await trio.sleep_until(due)
            self.event_loop_lag_seconds.observe(trio.current_time() - due)

    def collect(self) -> Iterator[Metric]:
        """The families of one scrape."""
        yield InfoMetricFamily(
            "fastimd_build",
            "What runs here.",
            {"version": __version__, "python": platform.python_version()},
        )
        for name, help_text in _COUNTERS.items():
            yield CounterMetricFamily(f"fastimd_{name}", help_text, value=getattr(self, name))
        for name, help_text in _HISTOGRAMS.items():
            histogram: Histogram = getattr(self, name)
            yield histogram.family(f"fastimd_{name}", help_text)
        yield from self._labelled_counters()
        yield from self._tokens()
        yield from self._moderation()
        yield from self._hooks()
        yield from self._api()
        yield from self._events()
        for name, help_text, read in self._gauges:
            yield GaugeMetricFamily(f"fastimd_{name}", help_text, value=read())
        for name, help_text, label, read_all in self._divided:
            divided = GaugeMetricFamily(f"fastimd_{name}", help_text, labels=[label])
            for value, number in read_all().items():
                divided.add_metric([value], number)
            yield divided

    def _labelled_counters(self) -> Iterator[Metric]:
        closes = CounterMetricFamily(
            "fastimd_sockets_closed", "Sockets closed, by close code.", labels=["code"]
        )
        for code, count in self.closes.items():
            closes.add_metric([str(code or "other")], count)
        yield closes
        commands = CounterMetricFamily(
            "fastimd_live_commands",
            "Commands of the live wire, by how they ended: ok, or the code of the error or close.",
            labels=["wire", "command", "outcome"],
        )
        for key, count in self.commands.items():
            commands.add_metric(key, count)
        yield commands
        requests = CounterMetricFamily(
            "fastimd_http_requests", "HTTP answers.", labels=["route", "status"]
        )
        for (route, status), count in self.http_requests.items():
            requests.add_metric([route, str(status)], count)
        yield requests
        reconnects = CounterMetricFamily(
            "fastimd_redis_reconnects",
            "Connections to Redis that followed a broken one.",
            labels=["purpose"],
        )
        for purpose, count in self.redis_reconnects.items():
            reconnects.add_metric([purpose], count)
        yield reconnects

    def _tokens(self) -> Iterator[Metric]:
        refused = CounterMetricFamily(
            "fastimd_tokens_refused", "JWTs refused, by cause.", labels=["cause"]
        )
        for cause, count in self.tokens_refused.items():
            refused.add_metric([cause], count)
        yield refused
        reads = CounterMetricFamily(
            "fastimd_jwks_reads", "Readings of the key set of tokens.", labels=["outcome"]
        )
        for outcome, count in self.jwks_reads.items():
            reads.add_metric([outcome], count)
        yield reads

    def _moderation(self) -> Iterator[Metric]:
        acts = CounterMetricFamily(
            "fastimd_moderation_acts", "Acts of moderators, and reports.", labels=["act"]
        )
        for act, count in self.moderation_acts.items():
            acts.add_metric([act], count)
        yield acts
        restrained = CounterMetricFamily(
            "fastimd_messages_restrained",
            "Messages refused by a group's policy, by why.",
            labels=["why"],
        )
        for why, count in self.messages_restrained.items():
            restrained.add_metric([why], count)
        yield restrained

    def _api(self) -> Iterator[Metric]:
        calls = CounterMetricFamily(
            "fastimd_api_calls",
            "Calls of the server API, by the code of their error, 0 for none.",
            labels=["method", "key", "code"],
        )
        for (method, key, code), count in self.api_calls.items():
            calls.add_metric([method, key, str(code)], count)
        yield calls
        seconds = HistogramMetricFamily(
            "fastimd_api_seconds", "How long calls of the server API took.", labels=["method"]
        )
        for method, histogram in self.api_seconds.items():
            histogram.add_to(seconds, method)
        yield seconds

    def _events(self) -> Iterator[Metric]:
        for outcome, help_text in _EVENT_OUTCOMES.items():
            family = CounterMetricFamily(f"fastimd_events_{outcome}", help_text, labels=["event"])
            for event, count in self.events[outcome].items():
                family.add_metric([event], count)
            yield family

    def _hooks(self) -> Iterator[Metric]:
        calls = CounterMetricFamily(
            "fastimd_hook_calls", "Calls of hooks, by how they ended.", labels=["hook", "outcome"]
        )
        for (hook, outcome), count in self.hook_calls.items():
            calls.add_metric([hook, outcome], count)
        yield calls
        seconds = HistogramMetricFamily(
            "fastimd_hook_seconds", "How long calls of hooks took.", labels=["hook"]
        )
        for hook, histogram in self.hook_seconds.items():
            histogram.add_to(seconds, hook)
        yield seconds


_EVENTS = ("on_join", "on_leave", "on_moderation", "on_report", "message")
_EVENT_OUTCOMES = {
    "delivered": "Events that the backend took, each message one.",
    "failed": "Requests with events that the backend did not take; they are sent again.",
    "dropped": "Events that the backend was never told.",
}

_COUNTERS = {
    "sockets_opened": "Sockets opened.",
    "connections_refused": "Connections refused at a limit of connections.",
    "connections_crashed": "Connections ended by an exception of ours.",
    "messages_received": "Messages received from clients.",
    "bytes_received": "Bytes read from sockets.",
    "bytes_sent": "Bytes handed to the outboxes of sockets.",
    "appends_failed": "Messages that Redis did not take; their senders were told.",
    "deliveries": "Messages handed to members' outboxes.",
    "deliveries_shed": "Deliveries left out, as a group would have had more than its budget.",
    "messages_shed": "Messages left out of what a group's members here were delivered.",
    "slow_closes": "Sockets closed because their reader was too slow.",
    "flood_closes": "Sockets closed because their client did not keep to its rate.",
    "presence_dropped": "Joins and leaves that no hook was told, as too many waited.",
    "tellings_dropped": "Acts and reports that no hook was told, as too many waited.",
    "presence_buried": "Connections of killed daemons whose leave was told here.",
    "api_keys_refused": "Calls of the server API with a wrong key.",
    "event_gaps": "Times that messages of a group were trimmed before the backend was told.",
    "corrupt_entries": "Values in Redis that are neither messages nor groups and were left out.",
    "unusable_keys": "Requests that Redis refused for what stands at one group's or user's key.",
    "foreign_ts": "Messages of others whose ts is no measure, as it is too far ahead of the clock.",
    "gap_repairs": "Groups whose list was read for what a broken relay connection had missed.",
    "messages_repaired": "Messages read from lists after a broken relay connection.",
    "group_list_pushes": "Group lists pushed.",
    "poller_batches": "Batches of questions that the group-list poller asked Redis.",
}

_HISTOGRAMS = {
    "append_seconds": "From a message's arrival to the answer of Redis that it is stored.",
    "relay_seconds": "From a message's ts to its arrival over the relay, by the clock of Redis.",
    "delivery_seconds": "From a message's ts until all members were written to, by that clock.",
    "event_loop_lag_seconds": "How late the event loop woke a task.",
}
