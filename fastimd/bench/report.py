"""What a run has shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from .histogram import Histogram


@dataclass
class Latency:
    """Milliseconds."""

    p50: float
    p99: float
    p999: float

    @classmethod
    def of(cls, taken: Histogram) -> Latency | None:
        """The quantiles; None of nothing."""
        if not taken.counts:
            return None
        return cls(*(round(taken.quantile(share), 3) for share in (0.5, 0.99, 0.999)))


@dataclass
class Server:
    """What the servers used in the measured time; memory at its end.

    ``kernel_share`` is the part of the time of CPU that went into system calls.
    """

    cpu_seconds: float
    resident_bytes: int
    kernel_share: float | None = None
    cpu_us_per_message: float | None = None
    cpu_us_per_delivery: float | None = None
    cpu_us_per_socket: float | None = None
    bytes_per_socket: float | None = None


@dataclass
class Result:
    """What a run has shown; speeds only where everything arrived, once and in order.

    Args:
        seconds: measured, after the warm-up.
        messages: said in that time.
        deliveries: heard by members in that time; in ``list``, pushes.
        lost: deliveries of the whole run that did not come.
        unanswered: messages that were not acknowledged, where a server does that.
        disorder: what was wrong with one that came; empty if nothing was.
        latency: from sending to hearing; in ``idle`` and ``storm`` from connecting to the greeting.
        refused: sockets that could not be opened; ``reason`` of the first.
    """

    mode: str
    sockets: int
    seconds: float
    messages: int = 0
    deliveries: int = 0
    messages_per_second: float | None = None
    deliveries_per_second: float | None = None
    connects_per_second: float | None = None
    latency: Latency | None = None
    server: Server | None = None
    redis_commands_per_second: float | None = None
    refused: int = 0
    reason: str = ""
    lost: int = 0
    unanswered: int = 0
    disorder: str = ""
    client_cpu_seconds: float = 0.0
    parameters: dict[str, int | float | str] = field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        """Whether everything arrived."""
        return not (self.lost or self.unanswered or self.disorder or self.refused)

    def withdraw_speeds(self) -> None:
        """What did not arrive has no speed."""
        self.messages_per_second = self.deliveries_per_second = self.connects_per_second = None
        self.latency = self.server = self.redis_commands_per_second = None

    def as_json(self) -> str:
        """One line of JSON."""
        return msgspec.json.encode(self).decode()

    def as_table(self) -> str:
        """Two columns."""
        rows = list(self._rows())
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield "mode", self.mode
        for name, value in self.parameters.items():
            yield name.replace("_", " "), str(value)
        yield "measured", f"{self.seconds:.2f} s"
        yield from self._speeds()
        if self.latency is not None:
            which = "connecting" if self.mode in ("idle", "storm") else "latency"
            ms = self.latency
            yield which, f"p50 {ms.p50:g} ms, p99 {ms.p99:g} ms, p99.9 {ms.p999:g} ms"
        if self.server is not None:
            yield from _server_rows(self.server)
        if self.redis_commands_per_second is not None:
            yield "Redis", f"{self.redis_commands_per_second:,.0f} commands/s"
        yield "load generator", f"{self.client_cpu_seconds:.2f} s of CPU"
        yield "refused", f"{self.refused}" + (f" ({self.reason})" if self.reason else "")
        yield "lost", str(self.lost)
        if self.unanswered:
            yield "not acknowledged", str(self.unanswered)
        yield "disorder", self.disorder or "none"

    def _speeds(self) -> Iterator[tuple[str, str]]:
        pushes = "pushes" if self.mode == "list" else "deliveries"
        for name, count, speed in (
            ("messages", self.messages, self.messages_per_second),
            (pushes, self.deliveries, self.deliveries_per_second),
        ):
            if speed is not None:
                yield name, f"{count:,} ({speed:,.0f}/s)"
        if self.connects_per_second is not None:
            yield "connects", f"{self.sockets:,} ({self.connects_per_second:,.0f}/s)"


def _server_rows(server: Server) -> Iterator[tuple[str, str]]:
    share = server.kernel_share
    in_kernel = "" if share is None else f", {share:.0%} in the kernel"
    yield "server CPU", f"{server.cpu_seconds:.3f} s{in_kernel}"
    for name, value in (
        ("per message", server.cpu_us_per_message),
        ("per delivery", server.cpu_us_per_delivery),
        ("per connect", server.cpu_us_per_socket),
    ):
        if value is not None:
            yield f"server CPU {name}", f"{value:.2f} us"
    yield "server memory", f"{server.resident_bytes / 2**20:.1f} MiB"
    if server.bytes_per_socket is not None:
        yield "server memory per socket", f"{server.bytes_per_socket / 1024:.1f} KiB"
