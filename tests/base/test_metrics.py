"""What a scrape shows, and that the dashboard and the alerts are about what it shows."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import trio
from clients import CLOSE, RawClient, log_in, metrics, post
from conftest import Daemon, StartDaemon, connect, receive, wait_for
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from redis import Redis
from trio.testing import MockClock

from fastimd import __version__
from fastimd.base.metrics import BOUNDS, LAG_INTERVAL, Histogram, Metrics
from fastimd.redis.clock import RedisClock

DOCS = Path(__file__).parent.parent.parent / "docs"
ALERTS = DOCS / "alerts.yml"
DASHBOARD = DOCS / "grafana" / "fastimd.json"
OPENMETRICS = "application/openmetrics-text"

NAME = re.compile(r"\b(?:fastimd|process)_\w+")
PARTS = re.compile(r"_(?:bucket|sum|count)$")
"""What a histogram's name has behind it in its series."""


def promtool(*arguments: str, text: str = "") -> str:
    """What promtool says to that; skipped without it, unless it must be there.

    Raises:
        AssertionError: promtool finds something wrong.
    """
    executable = shutil.which("promtool")
    if executable is None:
        if os.environ.get("FASTIMD_TEST_PROMTOOL") == "required":
            pytest.fail("no promtool on this machine, and FASTIMD_TEST_PROMTOOL=required")
        pytest.skip("needs promtool (Debian's package prometheus)")
    done = subprocess.run(
        [executable, *arguments], input=text, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def scrape(daemon: Daemon, accept: str = "*/*") -> tuple[str, str]:
    """Content type and text of the daemon's metrics."""
    request = Request(f"{daemon.admin}/metrics", headers={"Accept": accept})
    with urlopen(request, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def shown_names(text: str) -> set[str]:
    """Names of the metrics in a scrape."""
    return set(re.findall(r"^# TYPE (\S+)", text, re.M))


def expressions(document: Path) -> list[str]:
    """The expressions of the dashboard or of the alerts."""
    if document.suffix == ".json":
        panels = json.loads(document.read_text())["panels"]
        return [each["expr"] for panel in panels for each in panel.get("targets", ())]
    return re.findall(r"^\s+expr: (.*)$", document.read_text(), re.M)


def alerts() -> list[str]:
    """The source of each alert."""
    return re.split(r"^\s+- alert: ", ALERTS.read_text(), flags=re.M)[1:]


async def say(daemon: Daemon, *texts: str) -> None:
    """Let one member say something and hear it."""
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        for text in texts:
            await member.send_message(text)
            await receive(member)


async def numbers_of(daemon: Daemon) -> dict[str, float]:
    """``metrics`` from a Trio task."""
    return await trio.to_thread.run_sync(metrics, daemon)


@pytest.fixture
def whole(start_daemon: StartDaemon) -> Daemon:
    """Two workers."""
    return start_daemon(server__workers="2")


# The scrape


def test_promtool_finds_nothing_wrong(daemon: Daemon) -> None:
    """Names, help texts, units and types are as Prometheus wants them, with every label in use."""
    trio.run(say, daemon, "a", "b")
    log_in(daemon)
    assert promtool("check", "metrics", text=scrape(daemon)[1]) == ""


def test_promtool_finds_nothing_wrong_with_the_sums_of_workers(whole: Daemon) -> None:
    """They are all there is of one daemon, and what there is of workers."""
    trio.run(say, whole, "a", "b")
    assert promtool("check", "metrics", text=scrape(whole)[1]) == ""
    text = scrape(whole, OPENMETRICS)[1]
    assert text.endswith("# EOF\n")
    families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    assert {family.name for family in families} >= {
        "fastimd_worker_restarts",
        "fastimd_messages_received",
        "process_cpu_seconds",
    }


def test_workers_add_up_to_all_that_one_daemon_shows(daemon: Daemon, whole: Daemon) -> None:
    """And have their own beside it."""
    of_one, of_two = shown_names(scrape(daemon)[1]), shown_names(scrape(whole)[1])
    assert of_one - of_two == set()
    assert {name for name in of_two - of_one if not name.startswith("fastimd_worker_")} == set()


def test_who_asks_for_openmetrics_gets_it(daemon: Daemon) -> None:
    """It is good OpenMetrics, and the same metrics; who asks for nothing gets the text format."""
    log_in(daemon)
    plain_type, plain = scrape(daemon)
    assert plain_type.startswith("text/plain; version=0.0.4")
    for version, accept in (("1.0.0", OPENMETRICS), ("1.0.0", f"{OPENMETRICS}; version=1.0.0")):
        content_type, text = scrape(daemon, f"{accept},text/plain;q=0.5")
        assert content_type.startswith(f"{OPENMETRICS}; version={version}; charset=utf-8")
        assert text.endswith("# EOF\n")
        families = list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
        suffixes = {"counter": "_total", "info": "_info"}
        names = {f"{family.name}{suffixes.get(family.type, '')}" for family in families}
        assert names == shown_names(plain)


async def test_a_message_is_in_every_histogram_and_in_the_bytes(daemon: Daemon) -> None:
    """One message of one member of two: one append, one arrival, two deliveries, and its bytes."""
    async with connect(daemon.chat_url(user="1")) as speaker, connect(daemon.chat_url(user="2")):
        await receive(speaker)
        before = await numbers_of(daemon)
        await speaker.send_message("x" * 1000)
        await receive(speaker)
        after = await numbers_of(daemon)
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    counts = {"append": 1, "relay": 1, "delivery": 2}
    for name, count in counts.items():
        assert grown[f"fastimd_{name}_seconds_count"] == count
        assert grown[f'fastimd_{name}_seconds_bucket{{le="+Inf"}}'] == count
        assert 0 <= grown[f"fastimd_{name}_seconds_sum"] < 10 * count
    assert 1000 < grown["fastimd_bytes_received_total"] < 1100
    assert 2000 < grown["fastimd_bytes_sent_total"] < 2400


async def test_connections_are_told_by_kind(daemon: Daemon) -> None:
    """A chat socket, a list socket and a connection that has asked for nothing yet."""
    host, port = daemon.address.rsplit(":", 1)
    async with (
        connect(daemon.chat_url()) as chat,
        connect(daemon.list_url()),
        await trio.open_tcp_stream(host, int(port)),
    ):
        await receive(chat)
        kinds = ("chat", "list", "http")

        def all_there() -> bool:
            numbers = metrics(daemon)
            named = [numbers[f'fastimd_connections_by_kind{{kind="{kind}"}}'] for kind in kinds]
            return named == [1, 1, 1] and numbers["fastimd_connections"] == 3

        await trio.to_thread.run_sync(wait_for, all_there)


def test_close_codes_of_clients_share_a_label(daemon: Daemon) -> None:
    """Whatever codes clients think of, there are no more series than RFC 6455 has codes."""
    for code in (1000, 3000, 4000, 4999):
        with RawClient(daemon.address, "/group/chat/1/1/t") as client:
            client.send(CLOSE, code.to_bytes(2, "big"))
            assert client.infos_to_the_end()[1][0] == code

    def closes() -> dict[str, float]:
        found = metrics(daemon).items()
        return {name: value for name, value in found if "sockets_closed" in name}

    expected = {
        'fastimd_sockets_closed_total{code="1000"}': 1.0,
        'fastimd_sockets_closed_total{code="other"}': 3.0,
    }
    wait_for(lambda: closes() == expected, daemon)


def test_nothing_of_a_client_is_in_a_label(daemon: Daemon) -> None:
    """Neither a group nor a user, nor a path that a client thinks of."""
    trio.run(say, daemon, "a")
    with RawClient(daemon.address, "/group/chat/secretgroup/secretuser/secrettoken"):
        post(daemon, "/secret/path", {"userId": "secretuser"})
        assert "secret" not in scrape(daemon)[1]


async def test_a_broken_connection_is_seen(daemon: Daemon, redis: Redis) -> None:
    """Redis is up, the connections break and come back, and the gap is looked for."""
    up = 'fastimd_redis_up{{purpose="{}"}}'
    reconnects = 'fastimd_redis_reconnects_total{{purpose="{}"}}'
    purposes = ("commands", "messages")
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        numbers = await numbers_of(daemon)
        assert [numbers[up.format(purpose)] for purpose in purposes] == [1, 1]
        assert [numbers[reconnects.format(purpose)] for purpose in purposes] == [0, 0]
        assert numbers["fastimd_gap_repairs_total"] == 0
        for kind in ("normal", "pubsub"):
            redis.client_kill_filter(_type=kind, skipme=True)

        def repaired() -> bool:
            numbers = metrics(daemon)
            back = [numbers[reconnects.format(purpose)] for purpose in purposes] == [1, 1]
            return back and numbers["fastimd_gap_repairs_total"] == 1

        await trio.to_thread.run_sync(wait_for, repaired)


def test_redis_that_is_away_is_seen(daemon: Daemon, redis: Redis) -> None:
    """While Redis takes no messages it is not up for commands, and what waits is counted."""
    with RawClient(daemon.address, "/group/chat/1/1/t") as member:
        member.next_text()
        redis.config_set("maxmemory", 1)
        try:
            member.say("waits")
            name = 'fastimd_redis_up{purpose="commands"}'
            wait_for(lambda: metrics(daemon)[name] == 0, daemon)
            assert metrics(daemon)["fastimd_held_messages"] == 1
        finally:
            redis.config_set("maxmemory", 0)
        assert json.loads(member.next_text())["info"] == "waits"
        wait_for(lambda: metrics(daemon)[name] == 1, daemon)
        # It waited, and the histogram knows.
        assert metrics(daemon)["fastimd_append_seconds_count"] == 1


def test_poller_batches_are_counted(daemon: Daemon) -> None:
    """A list socket makes the poller ask, and what it is sent is counted in the bytes."""
    trio.run(say, daemon, "a")
    before = metrics(daemon)
    with RawClient(daemon.address, "/group/list/1/t") as reader:
        text = reader.next_text()
        after = metrics(daemon)
    assert after["fastimd_poller_batches_total"] > before["fastimd_poller_batches_total"]
    assert after["fastimd_bytes_sent_total"] - before["fastimd_bytes_sent_total"] > len(text)


def test_files_build_and_lag_are_told(daemon: Daemon) -> None:
    """The process's files, what runs, and an event loop that is looked at by itself."""
    with ExitStack() as stack:
        before = metrics(daemon)["process_open_fds"]
        for _ in range(5):
            stack.enter_context(RawClient(daemon.address, "/group/chat/1/1/t"))
        assert metrics(daemon)["process_open_fds"] >= before + 5
    (build,) = [name for name in metrics(daemon) if name.startswith("fastimd_build_info")]
    version = re.escape(__version__)
    assert re.fullmatch(
        rf'fastimd_build_info{{python="3\.\d+\.\d+\S*",version="{version}"}}', build
    )
    count = "fastimd_event_loop_lag_seconds_count"
    looked = metrics(daemon)[count]
    wait_for(lambda: metrics(daemon)[count] > looked, daemon)


def test_delivery_latency_is_by_the_clock_of_redis(start_daemon: StartDaemon, redis: Redis) -> None:
    """A ts ahead of the clock, as in a burst, counts as no time at all, and never as less."""
    daemon = start_daemon()
    seconds, _ = redis.time()
    ahead = (int(seconds) + 30) * 1000
    redis.rpush("gml:1", json.dumps({"groupId": "1", "userId": "1", "info": "x", "ts": ahead}))
    trio.run(say, daemon, "a")
    numbers = metrics(daemon)
    assert numbers["fastimd_delivery_seconds_count"] == 1
    assert numbers["fastimd_delivery_seconds_sum"] == 0


# The parts


def test_a_duration_falls_into_its_bucket() -> None:
    """A bound belongs to its bucket; a batch counts as often as it has members."""
    histogram = Histogram()
    histogram.observe(0.0)
    histogram.observe(BOUNDS[3], 10)
    histogram.observe(BOUNDS[3] * 1.01, 100)
    histogram.observe(BOUNDS[-1] * 2, 1000)
    family = histogram.family("fastimd_x_seconds", "x")
    shown = {sample.labels["le"]: sample.value for sample in family.samples if sample.labels}
    by_bound = [shown[str(bound)] for bound in BOUNDS]
    assert by_bound == [1, 1, 1, 11] + [111] * (len(BOUNDS) - 4)
    assert shown["+Inf"] == 1111
    others = {sample.name: sample.value for sample in family.samples if not sample.labels}
    assert others["fastimd_x_seconds_count"] == 1111
    assert math.isclose(others["fastimd_x_seconds_sum"], BOUNDS[3] * 111 + BOUNDS[-1] * 2000)


async def test_a_late_event_loop_is_measured(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """What keeps the loop busy when a task is due is its lag."""
    counted = Metrics()
    nursery.start_soon(counted.watch_event_loop)
    await trio.sleep(LAG_INTERVAL * 1.5)
    autojump_clock.jump(LAG_INTERVAL / 2 + 0.3)  # the task is due after LAG_INTERVAL / 2
    await trio.testing.wait_all_tasks_blocked()
    registry = CollectorRegistry()
    registry.register(counted)
    name = "fastimd_event_loop_lag_seconds"
    assert registry.get_sample_value(f"{name}_count") == 2
    assert registry.get_sample_value(f"{name}_sum") == pytest.approx(0.3)


class Hands:
    """A monotonic clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def ask(self, clock: RedisClock, seconds: float, *, takes: float) -> None:
        """Let an answer come that Redis gave halfway."""
        asked_at = clock.now()
        self.now += takes
        clock.learn(asked_at, seconds)


EPOCH = 1_700_000_000.0


def test_the_clock_of_redis_counts_not_that_of_the_machine() -> None:
    """However far apart they are."""
    hands = Hands()
    clock = RedisClock(hands)
    hands.ask(clock, EPOCH, takes=0.02)
    hands.now += 2
    assert clock.age(int(EPOCH * 1000)) == pytest.approx(2.01)
    assert clock.age(int((EPOCH + 5) * 1000)) == 0


def test_a_slow_answer_does_not_spoil_what_is_known() -> None:
    """The clock is as good as its quickest answer, as long as that is not old."""
    hands = Hands()
    clock = RedisClock(hands)
    hands.ask(clock, EPOCH, takes=0.001)
    hands.now += 3
    hands.ask(clock, EPOCH + 3 + 0.9, takes=1)  # the question was long on its way
    assert clock.age(int(EPOCH * 1000)) == pytest.approx(4.0005)


def test_a_clock_that_was_set_is_followed() -> None:
    """An answer that what is known cannot explain counts at once, slow or not."""
    hands = Hands()
    clock = RedisClock(hands)
    hands.ask(clock, EPOCH, takes=0.001)
    hands.ask(clock, EPOCH + 3600, takes=1)
    assert clock.age(int((EPOCH + 3600) * 1000)) == pytest.approx(0.5)


# The documents


@pytest.mark.parametrize("document", [ALERTS, DASHBOARD], ids=lambda path: path.name)
def test_what_is_asked_for_is_there(whole: Daemon, document: Path) -> None:
    """Every metric that the dashboard and the alerts name is in the daemon's scrape."""
    named = {PARTS.sub("", name) for each in expressions(document) for name in NAME.findall(each)}
    assert len(named) > 10
    assert named - shown_names(scrape(whole)[1]) == set()


def test_what_is_there_is_asked_for(whole: Daemon) -> None:
    """Every metric of ours is in a panel or an alert, but for a total that is shown divided."""
    asked = {
        PARTS.sub("", name)
        for document in (DASHBOARD, ALERTS)
        for each in expressions(document)
        for name in NAME.findall(each)
    }
    shown = {name for name in shown_names(scrape(whole)[1]) if name.startswith("fastimd_")}
    assert shown - asked == {"fastimd_connections"}


def test_every_expression_of_the_dashboard_is_good(tmp_path: Path) -> None:
    """promtool reads each, with Grafana's variables put in."""
    rules = [
        {"record": f"panel:{number}", "expr": each.replace("$__rate_interval", "1m")}
        for number, each in enumerate(expressions(DASHBOARD))
    ]
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(path))


def test_promtool_accepts_the_alerts() -> None:
    """All of them, and each says what it means and what to do."""
    assert f"{len(alerts())} rules found" in promtool("check", "rules", str(ALERTS))
    for alert in alerts():
        for part in ("severity", "summary", "meaning", "action"):
            assert re.search(rf"^\s+{part}: .{{4,}}", alert, re.M), (part, alert)


HEALTHY = {
    "up": "1x60",
    "fastimd_build_info": "1x60",
    'fastimd_redis_up{purpose="commands"}': "1x60",
    'fastimd_redis_masters{state="up"}': "3x60",
    'fastimd_redis_masters{state="down"}': "0x60",
    "fastimd_sockets": "1000x60",
    "fastimd_outbox_bytes": "1000000x60",
    "fastimd_deliveries_total": "0+60000x60",
    "fastimd_deliveries_shed_total": "0+1000x60",
    "fastimd_slow_closes_total": "0+0.2x60",
    "fastimd_events_oldest_seconds": "0x60",
    'fastimd_events_dropped_total{event="on_leave"}': "0x60",
    "fastimd_appends_failed_total": "0x60",
    "fastimd_connections_crashed_total": "0x60",
    "fastimd_connections_refused_total": "0x60",
    "fastimd_corrupt_entries_total": "0x60",
    "fastimd_unusable_keys_total": "0x60",
    "fastimd_foreign_ts_total": "0x60",
    'fastimd_redis_reconnects_total{purpose="commands"}': "0x30 1x30",
    'fastimd_http_requests_total{status="200",route="/a"}': "0+100x60",
    'fastimd_http_requests_total{status="503",route="/a"}': "0+1x60",
    'fastimd_hook_calls_total{hook="login",outcome="ok"}': "0+100x60",
    'fastimd_hook_calls_total{hook="login",outcome="failed"}': "0+1x60",
    'fastimd_jwks_reads_total{outcome="failed"}': "0x30 1x30",
    'fastimd_worker_up{worker="1"}': "1x60",
    'fastimd_worker_restarts_total{worker="1"}': "0x30 1x30",
    "process_start_time_seconds": "1000x60",
    "process_open_fds": "100x60",
    "process_max_fds": "1000x60",
} | {
    f'fastimd_{name}_seconds_bucket{{le="{bound}"}}': "0+1000x60"
    for name in ("append", "delivery", "event_loop_lag")
    for bound in ("0.01", "5.0", "+Inf")
}
"""Series of a daemon that is well, one value a minute."""

FAULTS: dict[str, dict[str, str]] = {
    "FastimdDown": {"up": "1x30 0x30"},
    "FastimdRestarting": {"process_start_time_seconds": "1000x45 1000+100x15"},
    "FastimdWorkerRestarting": {'fastimd_worker_restarts_total{worker="1"}': "0x50 0+1x10"},
    "FastimdWorkerDown": {'fastimd_worker_up{worker="1"}': "1x30 0x30"},
    "FastimdRedisAway": {'fastimd_redis_up{purpose="commands"}': "1x30 0x30"},
    "FastimdMasterDown": {'fastimd_redis_masters{state="down"}': "0x30 1x30"},
    "FastimdRedisFlapping": {
        'fastimd_redis_reconnects_total{purpose="commands"}': "0x30 0+1x30",
    },
    "FastimdMessagesNotStored": {"fastimd_appends_failed_total": "0x57 7x3"},
    "FastimdSlowAppends": {'fastimd_append_seconds_bucket{le="0.01"}': "0+900x60"},
    "FastimdSlowDelivery": {'fastimd_delivery_seconds_bucket{le="0.01"}': "0+900x60"},
    "FastimdEventLoopLate": {'fastimd_event_loop_lag_seconds_bucket{le="0.01"}': "0+900x60"},
    "FastimdRoomOverBudget": {"fastimd_deliveries_shed_total": "0+60000x60"},
    "FastimdSlowReaders": {"fastimd_slow_closes_total": "0+5x60"},
    "FastimdOutboxesLarge": {"fastimd_outbox_bytes": "300000000x60"},
    "FastimdCrash": {"fastimd_connections_crashed_total": "0x57 1x3"},
    "FastimdHttpErrors": {'fastimd_http_requests_total{status="503",route="/a"}': "0+20x60"},
    "FastimdHooksFailing": {
        'fastimd_hook_calls_total{hook="login",outcome="failed"}': "0+20x60",
    },
    "FastimdEventsWait": {"fastimd_events_oldest_seconds": "0+60x60"},
    "FastimdEventsDropped": {
        'fastimd_events_dropped_total{event="on_leave"}': "0x57 1x3",
    },
    "FastimdKeySetAway": {'fastimd_jwks_reads_total{outcome="failed"}': "0+2x60"},
    "FastimdTurnedAway": {"fastimd_connections_refused_total": "0+1x60"},
    "FastimdFilesNearlyOut": {"process_open_fds": "950x60"},
    "FastimdCorruptEntries": {"fastimd_corrupt_entries_total": "0x30 1x30"},
    "FastimdUnusableKeys": {"fastimd_unusable_keys_total": "0x56 1x4"},
    "FastimdForeignTs": {"fastimd_foreign_ts_total": "0x30 1x30"},
}
"""What each alert is for, one series of a healthy daemon replaced."""


def firing(series: dict[str, str], expected: str, tmp_path: Path) -> None:
    """Let promtool see that after an hour of the series just this alert, or "" for none, fires."""
    found = [{"labels": f'{{alertname="{expected}"}}', "value": 1}] if expected else []
    test = {
        "interval": "1m",
        "input_series": [
            {"series": labelled(name), "values": values} for name, values in series.items()
        ],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "59m",
                "exp_samples": found,
            }
        ],
    }
    path = tmp_path / "test.json"
    path.write_text(
        json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [test]})
    )
    promtool("test", "rules", str(path))


def labelled(series: str) -> str:
    """A series with the labels that a scrape gives it."""
    name, _, labels = series.rstrip("}").partition("{")
    given = ",".join(filter(None, (labels, 'job="fastimd"', 'instance="a:9001"')))
    return f"{name}{{{given}}}"


def test_no_alert_fires_for_a_healthy_daemon(tmp_path: Path) -> None:
    """One reconnection, a slow reader now and then and one error in a hundred are no alarm."""
    firing(HEALTHY, "", tmp_path)


def test_every_alert_has_a_fault() -> None:
    """The next test tries them all."""
    assert list(FAULTS) == [alert.partition("\n")[0] for alert in alerts()]


@pytest.mark.parametrize("alert", FAULTS)
def test_an_alert_fires_for_what_it_is_for(alert: str, tmp_path: Path) -> None:
    """That one, and no other."""
    assert FAULTS[alert].keys() <= HEALTHY.keys()
    firing(HEALTHY | FAULTS[alert], alert, tmp_path)
