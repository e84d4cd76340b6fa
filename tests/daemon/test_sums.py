"""What several processes count is shown as the counts of one."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from fastimd.base.metrics import BOUNDS, Metrics
from fastimd.daemon.workers.sums import Families, Lives, Shown, add_up, read_families


def counted(**counts: float) -> Families:
    """Families of a process with these counters."""
    families: Families = {}
    for name, value in counts.items():
        metric = Metric(name, "what it is", "counter")
        metric.add_sample(f"{name}_total", {}, value)
        families |= read_families([metric])
    return families


def gauge(name: str, value: float, **labels: str) -> Families:
    metric = Metric(name, "what it is", "gauge")
    metric.add_sample(name, labels, value)
    return read_families([metric])


def value_of(families: Families, name: str) -> float:
    (value,) = families[name].samples.values()
    return value


def scraped(metrics: Metrics) -> Families:
    """The families of a process as its parent reads them."""
    registry = CollectorRegistry()
    registry.register(metrics)
    return read_families(text_string_to_metric_families(generate_latest(registry).decode()))


def test_every_metric_of_a_daemon_is_of_the_whole() -> None:
    """Counters, histograms and labels; what tells one thing of all is said once."""
    processes = []
    for number in (1, 2):
        metrics = Metrics()
        metrics.messages_received = number
        metrics.count_close(1000)
        metrics.count_hook("login", "ok", 0.3)
        metrics.append_seconds.observe(BOUNDS[number], 10)
        metrics.add_gauge("sockets", "Open sockets.", lambda: 4)
        metrics.add_divided_gauge(
            "redis_up", "By purpose.", "purpose", partial(dict, commands=number - 1)
        )
        processes.append(scraped(metrics))
    registry = CollectorRegistry()
    registry.register(Shown(add_up(processes)))
    lines = generate_latest(registry).decode().splitlines()
    for line in (
        "fastimd_messages_received_total 3.0",
        'fastimd_sockets_closed_total{code="1000"} 2.0',
        'fastimd_hook_calls_total{hook="login",outcome="ok"} 2.0',
        'fastimd_hook_seconds_count{hook="login"} 2.0',
        f'fastimd_append_seconds_bucket{{le="{BOUNDS[1]}"}} 10.0',
        f'fastimd_append_seconds_bucket{{le="{BOUNDS[2]}"}} 20.0',
        'fastimd_append_seconds_bucket{le="+Inf"} 20.0',
        "fastimd_sockets 8.0",
        'fastimd_redis_up{purpose="commands"} 0.0',
        "# TYPE fastimd_append_seconds histogram",
        "# TYPE fastimd_messages_received_total counter",
    ):
        assert line in lines, line
    assert [line.split()[-1] for line in lines if line.startswith("fastimd_build_info")] == ["1.0"]
    assert set(scraped(Metrics())) <= set(add_up(processes))


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 100), st.booleans(), st.booleans()),
        max_size=30,
    )
)
def test_counters_never_fall(steps: list[tuple[int, int, bool, bool]]) -> None:
    """Whichever process counts more, dies, or does not answer; nothing that was seen is lost."""
    lives = {number: Lives() for number in range(4)}
    pids = dict.fromkeys(lives, 1)
    now = dict.fromkeys(lives, 0)
    before = seen = 0.0
    for number, more, dies, answers in steps:
        if dies:
            pids[number] += 1
            now[number] = 0
        now[number] += more
        sources = []
        for each in lives:
            if each == number and not answers:
                sources.append(lives[each].counts())
            else:
                sources.append(lives[each].take(pids[each], counted(words=now[each])))
        whole = add_up(sources)
        seen = value_of(whole, "words") if "words" in whole else 0.0
        assert seen >= before
        assert seen >= sum(now[each] for each in lives if each != number)
        before = seen


def test_who_does_not_answer_has_no_gauges() -> None:
    """How it is now is not known; what it had counted is."""
    lives = Lives()
    lives.take(1, counted(words=3) | gauge("sockets", 7))
    assert set(lives.counts()) == {"words"}
    families = lives.take(2, counted(words=1) | gauge("sockets", 2))
    assert value_of(families, "words") == 4
    assert value_of(families, "sockets") == 2
