"""What the daemon counts: plain integers on the hot path, Prometheus families when scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Metrics(Collector):
    """The daemon's counters; gauges are callables that are asked at each scrape."""

    def __init__(self) -> None:
        self.sockets_opened = 0
        self.closes: dict[int, int] = {}
        self.connections_refused = 0
        self.connections_crashed = 0
        self.messages_received = 0
        self.appends_failed = 0
        self.deliveries = 0
        self.slow_closes = 0
        self.flood_closes = 0
        self.corrupt_entries = 0
        self.messages_repaired = 0
        self.group_list_pushes = 0
        self.http_requests: dict[tuple[str, int], int] = {}
        self._gauges: list[tuple[str, str, Callable[[], float]]] = []

    def add_gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Offer a value that is read at each scrape."""
        self._gauges.append((name, help_text, read))

    def count_close(self, code: int) -> None:
        """Count one closed socket; codes outside the registered ones share a label."""
        known = code if 1000 <= code <= 1015 else 0
        self.closes[known] = self.closes.get(known, 0) + 1

    def count_request(self, route: str, status: int) -> None:
        """Count one HTTP answer."""
        self.http_requests[route, status] = self.http_requests.get((route, status), 0) + 1

    def collect(self) -> Iterator[Metric]:
        """The families of one scrape."""
        for name, help_text in _COUNTERS.items():
            yield CounterMetricFamily(f"fastimd_{name}", help_text, value=getattr(self, name))
        closes = CounterMetricFamily(
            "fastimd_sockets_closed", "Sockets closed, by close code.", labels=["code"]
        )
        for code, count in self.closes.items():
            closes.add_metric([str(code or "other")], count)
        yield closes
        requests = CounterMetricFamily(
            "fastimd_http_requests", "HTTP answers.", labels=["route", "status"]
        )
        for (route, status), count in self.http_requests.items():
            requests.add_metric([route, str(status)], count)
        yield requests
        for name, help_text, read in self._gauges:
            yield GaugeMetricFamily(f"fastimd_{name}", help_text, value=read())


_COUNTERS = {
    "sockets_opened": "Sockets opened.",
    "connections_refused": "Connections refused at a limit of connections.",
    "connections_crashed": "Connections ended by an exception of ours.",
    "messages_received": "Messages received from clients.",
    "appends_failed": "Messages that Redis did not take; their senders were told.",
    "deliveries": "Messages handed to members' outboxes.",
    "slow_closes": "Sockets closed because their reader was too slow.",
    "flood_closes": "Sockets closed because their client did not keep to its rate.",
    "corrupt_entries": "Values in Redis that are not messages and were left out.",
    "messages_repaired": "Messages read from lists after a broken relay connection.",
    "group_list_pushes": "Group lists pushed.",
}
