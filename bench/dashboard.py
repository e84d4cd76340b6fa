"""Draws docs/grafana/dashboard.png: the dashboard's panels, from a daemon that is really loaded.

A Prometheus scrapes a daemon under ``fastimd bench`` and evaluates the expressions that stand in
the dashboard's own file; matplotlib draws what it answers, where Grafana would place it. So the
picture is not a screenshot of Grafana, but every number in it was measured.

    python bench/dashboard.py          some two minutes; needs Debian's package prometheus
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import matplotlib as mpl
from servers import BenchRedis, Fastimd, NotStarted, Program

from fastimd.base.address import Address
from fastimd.bench.run import run
from fastimd.bench.spec import Spec

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

GRAFANA = Path(__file__).parent.parent / "docs" / "grafana"
DASHBOARD = GRAFANA / "fastimd.json"
PICTURE = GRAFANA / "dashboard.png"

SCRAPE_SECONDS = 1
VARIABLES = {"$__rate_interval": "5s", "$instance": ".*"}
"""What Grafana puts in; its interval is four scrapes or longer."""
COLUMNS = 24
"""Into which Grafana divides the width."""
ROW_INCHES = 0.42
PAUSE_SECONDS = 5.0


class ObservedFastimd(Fastimd):
    """The daemon, with an admin address."""

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "FASTIMD_ADMIN__BIND": "127.0.0.1:0"}

    @property
    def admin(self) -> str:
        """HOST:PORT of the admin address."""
        events = [json.loads(line) for line in self.log_lines() if line.startswith("{")]
        (serving,) = [event for event in events if event["event"] == "daemon.serving"]
        return str(serving["admin"]).removeprefix("http://")


class Prometheus(Program):
    """A Prometheus that scrapes one daemon.

    Args:
        target: HOST:PORT of the daemon's admin address.
    """

    name = "Prometheus"

    def __init__(self, folder: Path, target: str) -> None:
        super().__init__(folder)
        self._target = target

    def command(self) -> list[str]:
        executable = shutil.which("prometheus")
        if executable is None:
            raise NotStarted("Prometheus is not installed: apt install prometheus")
        settings = self.folder / "prometheus.yml"
        job = {"job_name": "fastimd", "static_configs": [{"targets": [self._target]}]}
        scrape = {"scrape_interval": f"{SCRAPE_SECONDS}s", "scrape_timeout": f"{SCRAPE_SECONDS}s"}
        settings.write_text(json.dumps({"global": scrape, "scrape_configs": [job]}))
        return [
            executable,
            f"--config.file={settings}",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def wait_ready(self) -> None:
        self.wait_for("answer", self._answers)

    def ask(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """The series of an expression, one point a second."""
        query = {"query": expression, "start": start, "end": end, "step": SCRAPE_SECONDS}
        with urlopen(
            f"http://127.0.0.1:{self.port}/api/v1/query_range?{urlencode(query)}", timeout=10
        ) as answer:
            series: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return series

    def _answers(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=1):
                return True
        except (URLError, TimeoutError):
            return False


def main() -> int:
    """Load a daemon and draw what is seen of it."""
    try:
        with (
            TemporaryDirectory() as folder,
            BenchRedis(Path(folder)) as redis,
            ObservedFastimd(Path(folder), redis) as daemon,
            Prometheus(Path(folder), daemon.admin) as prometheus,
        ):
            start = time.time()
            _load(daemon.address, redis)
            _draw(prometheus, start, time.time())
    except NotStarted as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


def _load(address: Address, redis: BenchRedis) -> None:
    """Talk in many groups and in a large one, break the connections to Redis, read group lists."""
    talk = Spec("talk", (address,), groups=100, members=5, rate=2000, seconds=20)
    run(talk)
    _pause(address)
    with redis.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    _pause(address)
    run(Spec("burst", (address,), members=1000, rate=150, seconds=20))
    _pause(address)
    run(
        Spec(
            "list",
            (address,),
            members=500,
            groups=200,
            groups_each=20,
            active=20,
            rate=20,
            seconds=15,
        )
    )
    _pause(address)


def _pause(address: Address) -> None:
    """Let the curves come down, while somebody looks at the test page now and then."""
    until = time.monotonic() + PAUSE_SECONDS
    while time.monotonic() < until:
        with urlopen(f"http://{address.host}:{address.port}/test/websocket", timeout=5) as answer:
            answer.read()
        time.sleep(0.5)


def _draw(prometheus: Prometheus, start: float, end: float) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(18, height * ROW_INCHES))
    for panel in panels:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        if panel["type"] == "row":
            place = (0.03, 1 - (y + h) / height)
            figure.text(*place, panel["title"], fontsize=15, weight="bold")
            continue
        left, bottom = x / COLUMNS + 0.03, 1 - (y + h - 0.8) / height
        axes = figure.add_axes((left, bottom, w / COLUMNS - 0.04, (h - 1.8) / height))
        _draw_panel(axes, panel, prometheus, start, end)
    figure.savefig(PICTURE, dpi=70)
    plt.close(figure)
    print(PICTURE)


def _draw_panel(
    axes: Axes, panel: dict[str, Any], prometheus: Prometheus, start: float, end: float
) -> None:
    for target in panel["targets"]:
        expression = target["expr"]
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        for series in prometheus.ask(expression, start, end):
            seconds = [float(at) - start for at, _ in series["values"]]
            values = [float(value) for _, value in series["values"]]
            axes.plot(seconds, values, label=_legend(target["legendFormat"], series["metric"]))
    unit = panel["fieldConfig"]["defaults"]["unit"]
    axes.set_title(f"{panel['title']}  [{unit}]", fontsize=11, loc="left")
    axes.set(xlim=(0, end - start))
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.tick_params(labelsize=8)
    if axes.lines:
        axes.legend(fontsize=7, loc="upper left")


def _legend(template: str, labels: Mapping[str, str]) -> str:
    for label, value in labels.items():
        template = template.replace("{{" + label + "}}", value)
    return template


if __name__ == "__main__":
    sys.exit(main())
