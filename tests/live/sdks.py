"""The published SDKs of the live wire's protocol, each behind a driver of ours.

A driver is a process with any number of clients of one SDK. It reads commands from standard input
and writes events to standard output, as JSON, one a line, and ends when its input ends. ``as``
names the client in both. The drivers are in ``sdk/``; what they stand on comes from the package
managers of their languages, by name and version, into ``build/sdks/``, and is built once.

Commands (``do``):

    connect      url, token, refresh (the token that is given when another is asked for), data
    disconnect
    subscribe    channel, token, refresh, recoverable, joinLeave
    unsubscribe  channel
    publish      id, channel, data
    history      id, channel, limit, since {offset, epoch}, reverse
    presence, presence_stats    id, channel
    rpc          id, method, data

Events (``event``); what an SDK does not tell is null, 0 or empty:

    connecting, disconnected    code, reason
    connected    client, data
    error        code, message, temporary
    renewal      channel (null: the connection); another token was asked for
    subscribing, unsubscribed   channel, code, reason
    subscribed   channel, recoverable, positioned, wasRecovering, recovered,
                 streamPosition {offset, epoch} or null
    subscription_error          channel, code, message, temporary
    publication  channel, data, user, offset, tags
    join, leave  channel, user, client
    reply        id, and result or error {code, message, temporary}

In Java, publications of a history have no tags.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
import trio
from browser import find_programs

HERE = Path(__file__).parent / "sdk"
BUILT = Path(__file__).parents[2] / "build" / "sdks"
PATIENCE = 15.0  # seconds until something awaited counts as missing
BUILD_SECONDS = 240

KINDS = (
    "node-json",
    "node-protobuf",
    "python-json",
    "python-protobuf",
    "go-json",
    "go-protobuf",
    "java-protobuf",
    "chromium-json",
    "chromium-protobuf",
)

T = TypeVar("T")


# What the drivers are built of


def command_of(kind: str) -> list[str]:
    """How the driver of a kind is started; what it needs is installed and built before.

    Without its tools the test is skipped, unless ``FASTIMD_TEST_SDKS=required``.
    """
    language, _, encoding = kind.partition("-")
    if language == "python":
        find_package("centrifuge")
        return [sys.executable, "-u", str(HERE / "asyncio_driver.py"), encoding]
    if language == "go":
        return [str(built("go", ["go"]) / "driver"), encoding]
    if language == "java":
        folder = built("java", ["mvn", "javac", "java"])
        # One that lives for seconds is not worth compiling well.
        flags = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"]
        return ["java", *flags, "-cp", f"{folder / 'classes'}:{folder / 'lib'}/*", "Driver"]
    if language == "chromium":
        find_programs()
        packages = built("javascript", ["npm"])
        return [sys.executable, "-u", str(HERE / "chromium_driver.py"), encoding, str(packages)]
    packages = built("javascript", ["npm", "node"])
    return [
        *("env", f"NODE_PATH={packages / 'node_modules'}"),
        *("node", str(HERE / "javascript" / "node.js"), encoding),
    ]


def find_package(name: str) -> None:
    """Skip the test when a package of Python is not installed."""
    if importlib.util.find_spec(name) is None:
        _missing(f"Python package {name}")


def _missing(what: str) -> NoReturn:
    if os.environ.get("FASTIMD_TEST_SDKS") == "required":
        pytest.fail(f"no {what} on this machine, and FASTIMD_TEST_SDKS=required")
    pytest.skip(f"no {what} on this machine")


def built(language: str, tools: list[str]) -> Path:
    """The folder of what is made of ``sdk/LANGUAGE``, made now if that has changed."""
    for tool in tools:
        if shutil.which(tool) is None:
            _missing(tool)
    if language == "go" and _go_version() < (1, 25):
        _missing("Go 1.25 or later")
    digest = hashlib.sha256()
    for path in sorted((HERE / language).iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    folder = BUILT / f"{language}-{digest.hexdigest()[:16]}"
    with _only_one(BUILT / f"{language}.lock"):
        if not folder.exists():
            _build(language, folder)
    return folder


def _go_version() -> tuple[int, ...]:
    shown = subprocess.run(["go", "version"], capture_output=True, text=True, check=True)
    found = re.search(r"go(\d+)\.(\d+)", shown.stdout)
    assert found, shown.stdout
    return int(found[1]), int(found[2])


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Workers of pytest-xdist want the same drivers: one builds, the others wait."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(language: str, folder: Path) -> None:
    source, making = HERE / language, folder.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    shutil.copytree(source, making)
    steps = {
        "javascript": [
            *["npm install --ignore-scripts --no-package-lock --no-audit --no-fund"],
        ],
        "go": ["go build -o driver ."],
        "java": [
            "mvn --batch-mode --quiet dependency:copy-dependencies -DoutputDirectory=lib",
            "javac -Xlint:all -Werror -cp lib/* -d classes Driver.java",
        ],
    }
    for step in steps[language]:
        done = subprocess.run(
            step.split(),
            cwd=making,
            # The Go that is here, or none.
            env=os.environ | {"GOTOOLCHAIN": "local"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
        if done.returncode:
            pytest.fail(f"{step}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    making.rename(folder)


# A driver that runs


class Refused(Exception):
    """A request was answered with an error, or not at all: that has a code of the SDK."""

    def __init__(self, code: int, message: str, temporary: bool) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.temporary = temporary


class Client:
    """One client of a driver.

    ``events`` are all that it has told, in order.
    """

    def __init__(self, driver: Driver, name: str) -> None:
        self.name = name
        self.events: list[dict[str, Any]] = []
        self._driver = driver
        self._taken: set[int] = set()

    async def connect(
        self,
        url: str,
        *,
        user: str | None = None,
        token: str = "",
        refresh: str = "",
        data: object = None,
    ) -> dict[str, Any]:
        """Connect, as a user or with a token; returns the event."""
        if user is not None:
            data = {"userId": user}
        await self.do("connect", url=url, token=token, refresh=refresh, data=data)
        return await self.next("connected")

    async def subscribe(
        self, channel: str, *, token: str = "", refresh: str = "", join_leave: bool = False
    ) -> dict[str, Any]:
        """Subscribe, so that what is missed is recovered; returns the event."""
        given = {"token": token, "refresh": refresh, "joinLeave": join_leave}
        await self.do("subscribe", channel=channel, recoverable=True, **given)
        return await self.next("subscribed", channel=channel)

    async def do(self, command: str, **fields: object) -> None:
        """Have something done, and do not wait for what comes of it."""
        await self._driver.write({"do": command, "as": self.name, **fields})

    async def ask(self, command: str, **fields: object) -> Any:
        """The result of a request.

        Raises:
            Refused: there is none.
        """
        return await self.answer(await self.begin(command, **fields))

    async def begin(self, command: str, **fields: object) -> int:
        """Make a request; returns its number."""
        number = self._driver.new_number()
        await self.do(command, id=number, **fields)
        return number

    async def answer(self, number: int) -> Any:
        """What became of a request.

        Raises:
            Refused: it has no result.
        """
        reply = await self.next("reply", id=number)
        if "error" in reply:
            raise Refused(**reply["error"])
        return reply["result"]

    async def publish(self, channel: str, data: object) -> None:
        """Publish, and wait until it is acknowledged.

        Raises:
            Refused: it is not.
        """
        assert await self.ask("publish", channel=channel, data=data) == {}

    def told(self, event: str, **fields: object) -> list[dict[str, Any]]:
        """All events of a kind, as long as they have these fields."""
        wanted = {"event": event, **fields}
        return [each for each in self.events if wanted.items() <= each.items()]

    def heard(self, channel: str) -> list[Any]:
        """The data of all publications of a channel."""
        return [each["data"] for each in self.told("publication", channel=channel)]

    async def next(self, event: str, **fields: object) -> dict[str, Any]:
        """The first event of a kind that was not returned here before; wait for it."""
        return await self._wait(lambda: self._take(event, **fields), f"{event} {fields}")

    async def hears(self, channel: str, expected: list[Any]) -> list[dict[str, Any]]:
        """Wait until as much was heard as is expected, which must be that; the publications."""
        await self._wait(
            lambda: len(self.heard(channel)) >= len(expected), f"{len(expected)} publications"
        )
        assert self.heard(channel) == expected
        return self.told("publication", channel=channel)

    def _take(self, event: str, **fields: object) -> dict[str, Any] | None:
        for each in self.told(event, **fields):
            if id(each) not in self._taken:
                self._taken.add(id(each))
                return each
        return None

    async def _wait(self, condition: Callable[[], T | None], what: str) -> T:
        with trio.move_on_after(PATIENCE):
            while not (value := condition()):
                await self._driver.something_told()
            return value
        raise AssertionError(f"{self.name} has not told of {what}, but {self.events}")


class Driver:
    """A driver's process. Its clients are made by naming them."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._clients: dict[str, Client] = {}
        self._told = trio.Event()
        self._numbers = itertools.count(1)

    def client(self, name: str) -> Client:
        """The client of this name."""
        return self._clients.setdefault(name, Client(self, name))

    def new_number(self) -> int:
        return next(self._numbers)

    async def write(self, command: dict[str, object]) -> None:
        line = json.dumps(command, ensure_ascii=False)
        await self._stdin.send_all(line.encode() + b"\n")

    async def something_told(self) -> None:
        """Wait for the next event of any client."""
        await self._told.wait()

    async def read(self) -> None:
        """Read events until there are no more."""
        buffer = b""
        async for data in self._stdout:
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                event = json.loads(line)
                self.client(event["as"]).events.append(event)
            told, self._told = self._told, trio.Event()
            told.set()

    async def end(self) -> int:
        """End its input, and wait for its end; its exit status."""
        await self._stdin.aclose()
        return await self._process.wait()


@asynccontextmanager
async def running(command: list[str]) -> AsyncIterator[Driver]:
    """A driver that is started by a command; it must end well."""
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    driver = Driver(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.read)
            yield driver
            with trio.fail_after(PATIENCE):
                status = await driver.end()
            assert status == 0, f"the driver ended with {status}"
    finally:
        if process.poll() is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
