"""docs/LIVE.md: its examples are chats, and its tables have what the code has.

So has docs/asyncapi.json, where it is about this wire.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import trio
from clients import log_in_async, post_async
from conftest import Daemon, StartDaemon, connect, receive, wait_for
from jsonschema import Draft202012Validator
from raw import connected
from redis import Redis
from sdks import BUILD_SECONDS, built, find_package

from fastimd.groups.moderation.methods import METHODS
from fastimd.groups.presence.presence import MOST_LISTED
from fastimd.groups.presence.roster import AWAY_SECONDS
from fastimd.groups.presence.typing import PAUSE_SECONDS
from fastimd.groups.store.keyspace import NONCE_SECONDS, NONCES
from fastimd.groups.store.marks import MOST_MARKS
from fastimd.groups.store.messages import NONCE_BYTES
from fastimd.live import codes, json_wire, protocol, rpc
from fastimd.live.connecting import CONNECT_SECONDS, EXPIRED_SECONDS
from fastimd.live.connection import ESCAPED, FRAME_ROOM
from fastimd.live.inbox import MOST_GROUPS, ListedGroups
from fastimd.live.protocol import Error, Unsubscribed
from fastimd.live.reading import MOST_MESSAGES
from fastimd.live.sockets import PATH
from fastimd.live.speaking import ANSWER_SECONDS, MAX_IN_FLIGHT
from fastimd.live.wire import Wire, subprotocol
from fastimd.websocket.pace import FLOOD_SECONDS

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = (DOCS / "LIVE.md").read_text()
ASYNCAPI: dict[str, Any] = json.loads((DOCS / "asyncapi.json").read_text())
COMPONENTS: dict[str, Any] = ASYNCAPI["components"]
COUNTED = ("none", "one", "two", "three", "four", "five", "six")
SECONDS = 60.0
"""How long a program may take, compiling it included."""

pytestmark = pytest.mark.timeout(2 * SECONDS + BUILD_SECONDS)


def blocks(language: str) -> list[str]:
    """The programs of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.M | re.S)


def in_javascript(program: str, folder: Path) -> list[str]:
    """Node knows WebSocket from 22 on; an earlier one is given it."""
    packages = built("javascript", ["npm", "node"]) / "node_modules"
    (folder / "node_modules").symlink_to(packages)
    (folder / "before.cjs").write_text('globalThis.WebSocket ??= require("ws");\n')
    (folder / "chat.mjs").write_text(program)
    return ["node", "-r", "./before.cjs", "chat.mjs"]


def in_python(program: str, folder: Path) -> list[str]:
    find_package("centrifuge")
    (folder / "chat.py").write_text(program)
    return [sys.executable, "chat.py"]


def in_go(program: str, folder: Path) -> list[str]:
    """Built beside the module file of the driver."""
    packages = built("go", ["go"])
    for name in ("go.mod", "go.sum"):
        shutil.copy(packages / name, folder)
    (folder / "main.go").write_text(program)
    subprocess.run(
        ["go", "build", "-o", "chat", "."],
        cwd=folder,
        env=os.environ | {"GOTOOLCHAIN": "local"},
        timeout=BUILD_SECONDS,
        check=True,
    )
    return ["./chat"]


def in_java(program: str, folder: Path) -> list[str]:
    (folder / "Chat.java").write_text(program)
    libraries = built("java", ["mvn", "javac", "java"]) / "lib"
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{libraries}/*", "Chat.java"]


LANGUAGES: dict[str, Callable[[str, Path], list[str]]] = {
    "js": in_javascript,
    "python": in_python,
    "go": in_go,
    "java": in_java,
}


@contextmanager
def running(
    language: str, program: str, daemon: Daemon, folder: Path
) -> Iterator[Callable[[], list[str]]]:
    """A program of the page, at this daemon; what it has printed, in lines."""
    folder.mkdir()
    command = LANGUAGES[language](program.replace("127.0.0.1:9000", daemon.address), folder)
    printed = folder / "printed"
    with printed.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield lambda: printed.read_text().splitlines()
        assert process.poll() is None, printed.read_text()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


async def until_many(printed: Callable[[], list[str]], count: int) -> None:
    """Wait until a program has printed so many lines."""
    await trio.to_thread.run_sync(
        lambda: wait_for(lambda: len(printed()) >= count, seconds=SECONDS)
    )


@pytest.mark.parametrize("language", LANGUAGES)
async def test_each_language_has_a_chat(language: str, daemon: Daemon, tmp_path: Path) -> None:
    """It says hello, hears what others say, on the other wire too, and sees it recalled."""
    program = blocks(language)[0]
    async with connect(daemon.chat_url("7", "carl")) as carl:
        await receive(carl)
        with running(language, program, daemon, tmp_path / "chat") as printed:
            with trio.fail_after(SECONDS):
                hello = await receive(carl)
            assert (hello["userId"], hello["info"]) == ("mara", "hello")
            await carl.send_message("hi")
            said = await receive(carl)
            login = await log_in_async(daemon, "carl")
            gone = {"groupId": "7", "ts": str(said["ts"])}
            answer = await post_async(daemon, "/group/delMessage", gone, login)
            assert answer.json["code"] == 200
            shown = ['mara "?hello"?', 'carl "?hi"?', rf"recall .*{said['ts']}.*carl.*"]
            await until_many(printed, len(shown))
            for line, pattern in zip(printed(), shown, strict=True):
                assert re.fullmatch(pattern, line), printed()


async def test_the_other_examples_work_in_that_chat(
    daemon: Daemon, redis: Redis, tmp_path: Path
) -> None:
    """An object is published, a text is said once, and the history has all of them."""
    chat, publish, history, _gap, say, _here = blocks("js")
    program = "\n".join([chat, publish, say, 'await say("once");', history])
    shown = ["hello", "{ text: 'Look at this', item: 4711 }", "once"]
    with running("js", program, daemon, tmp_path / "chat") as printed:
        await until_many(printed, 2 * len(shown))
        heard = [line.removeprefix("mara ") for line in printed() if line.startswith("mara ")]
        read = re.findall(r"^\d+ (.*)$", "\n".join(printed()), re.M)
    assert heard == shown
    assert read == shown[::-1]
    assert redis.llen("gml:7") == len(shown)


async def test_the_example_for_gaps_counts_them(
    start_daemon: StartDaemon, redis: Redis, tmp_path: Path
) -> None:
    """What it shows, and how many it says to have missed, is all that was said."""
    house = start_daemon(room__max_deliveries_per_second="10")
    chat, _publish, _history, gap, _say, _here = blocks("js")
    program = "\n".join([chat, "const show = console.log;", gap])
    with running("js", program, house, tmp_path / "chat") as printed:
        await until_many(printed, 1)
        async with connect(house.chat_url("7", "carl")) as carl:
            await receive(carl)
            for _ in range(50):
                await carl.send_message("hooray")

            def known() -> int:
                more = re.findall(r"^… (\d+) more$", "\n".join(printed()), re.M)
                return printed().count("carl hooray") + sum(map(int, more))

            await trio.to_thread.run_sync(lambda: wait_for(lambda: known() >= 50, seconds=SECONDS))
    assert known() == 50
    assert printed().count("carl hooray") < 40


async def test_the_example_for_presence_knows_who_is_here(
    daemon: Daemon, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """Who was there before, who comes through another daemon, and who leaves."""
    other = start_daemon()
    chat, *_, here = blocks("js")
    show = 'setInterval(() => console.log([...here.keys()].sort().join("+")), 100);'

    def shown() -> str:
        return printed()[-1] if printed() else ""

    async with connect(daemon.chat_url("lobby", "ann")):
        with running("js", "\n".join([chat, here, show]), daemon, tmp_path / "chat") as printed:
            await until_shown(shown, "ann+mara")
            async with connect(other.chat_url("lobby", "bob")):
                await until_shown(shown, "ann+bob+mara")
            await until_shown(shown, "ann+mara")


async def until_shown(shown: Callable[[], str], expected: str) -> None:
    """Wait until a program shows that."""
    await trio.to_thread.run_sync(lambda: wait_for(lambda: shown() == expected, seconds=SECONDS))


def table(first: str) -> list[list[str]]:
    """The rows of the table whose head begins so; without the backquotes around a cell."""
    head, found, rest = DOCUMENT.partition(f"\n| {first} |")
    assert found, (first, head[-200:])
    rows = rest.split("\n\n", 1)[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return [[re.sub(r"^`([^`]*)`$", r"\1", cell) for cell in row] for row in cells]


def test_the_page_has_every_error() -> None:
    """Each with its message, and whether it is temporary."""
    errors = [each for each in vars(codes).values() if isinstance(each, Error)]
    errors.append(codes.bad_request())
    written = sorted((each.code, each.message, each.temporary) for each in errors)
    rows = [(int(row[0]), row[1], row[2] == "yes") for row in table("code | message")]
    assert rows == written


def test_the_page_has_every_close_code() -> None:
    """Those of commands, and those of any connection."""
    ends = (*vars(codes).values(), *subprotocol(cast(Wire, json_wire)))
    written = {each for each in ends if isinstance(each, tuple)}
    rows = table("code | reason | when | what to do")
    assert [(int(row[0]), row[1]) for row in rows] == sorted(written)


def test_the_page_has_every_end_of_a_subscription() -> None:
    """With its reason."""
    written = [each for each in vars(codes).values() if isinstance(each, Unsubscribed)]
    rows = table("code | reason | when | what the SDK does")
    assert [(int(row[0]), row[1]) for row in rows] == [(each.code, each.reason) for each in written]


def test_the_page_has_every_method() -> None:
    """With what it takes, and what it returns."""
    rows = table("method | data | result")
    results: dict[str, type[msgspec.Struct]] = {"send": rpc.Sent, "groups": ListedGroups}
    for (name, given, result), (method, (arguments, _)) in zip(
        rows, rpc.METHODS.items(), strict=True
    ):
        assert name == method
        assert re.findall(r"\w+", given) == [
            field.name for field in msgspec.structs.fields(arguments)
        ]
        returned = results.get(method)
        names = [field.name for field in msgspec.structs.fields(returned)] if returned else []
        if method in METHODS:
            names = [field.name for field in msgspec.structs.fields(METHODS[method].answer)]
        assert re.findall(r'\{"(\w+)', result)[:1] == names


def test_the_page_has_the_limits_of_the_code() -> None:
    """A number that changes there changes here."""
    said = [
        f"ws://HOST:PORT{PATH.decode()}",
        f"`connect`, within {CONNECT_SECONDS:g} seconds",
        f"expired {EXPIRED_SECONDS:g} seconds ago is closed",
        f"does not take it within {ANSWER_SECONDS:g} seconds",
        f"how many; at most {MOST_MESSAGES:,}",
        f"a text of at most {NONCE_BYTES} bytes",
        f"for {COUNTED[NONCE_SECONDS // 60]} minutes",
        f"The last {NONCES:,} nonces",
        f"`limit` is 1 to {MOST_GROUPS:,}",
        f"the {MOST_MARKS:,} with the latest",
        f"more than {MOST_LISTED:,} clients",
        f"within {AWAY_SECONDS:g} seconds",
        f"once in {COUNTED[round(PAUSE_SECONDS)]} seconds",
        f"longer than {COUNTED[ESCAPED]} times that and {FRAME_ROOM // 1024} KiB",
        f"3013 after {FLOOD_SECONDS:g} seconds",
        f"{MAX_IN_FLIGHT} messages of a connection",
    ]
    text = " ".join(DOCUMENT.split())
    assert [each for each in said if each not in text] == []


# The document for machines


def test_the_schemas_are_those_of_the_code() -> None:
    """Every struct with its fields, and those that may not be missing."""
    structs = {
        f"Live{name}": msgspec.structs.fields(struct)
        for name, struct in vars(protocol).items()
        if isinstance(struct, type) and struct.__module__ == protocol.__name__
    }
    schemas = {name: each for name, each in COMPONENTS["schemas"].items() if name[:4] == "Live"}
    assert schemas.keys() == structs.keys()
    for name, fields in structs.items():
        assert list(schemas[name]["properties"]) == [field.name for field in fields], name
        required = [field.name for field in fields if field.required]
        assert schemas[name].get("required", []) == required, name


async def test_the_commands_of_the_document_are_obeyed(daemon: Daemon) -> None:
    """Each example gets the result that belongs to it, and all that comes is as documented."""
    messages = COMPONENTS["messages"]
    validator = Draft202012Validator({**messages["liveReply"]["payload"], "components": COMPONENTS})
    pushed: set[str] = set()
    async with connected(daemon.address, "json") as client:
        for example in messages["liveCommand"]["examples"]:
            command = example["payload"]
            await client.say(command)
            answers: list[dict[str, Any]] = []
            while not answers:
                replies = await client.hear(5)
                assert replies is not None, command
                for reply in replies:
                    validator.validate(reply)
                    if "push" in reply:
                        pushed |= set(reply["push"]) - {"channel"}
                    else:
                        answers.append(reply)
            assert [each.keys() for each in answers] == [command.keys()], answers
    assert pushed == {"pub", "join"}


def test_the_codes_are_those_of_the_page() -> None:
    """Both tables, with their words."""
    errors = [
        [
            str(each["code"]),
            each["message"],
            "yes" if each["temporary"] else "no",
            each["when"],
            each["client"],
        ]
        for each in ASYNCAPI["x-live-errors"]
    ]
    assert table("code | message") == errors
    closes = [
        [str(each["code"]), each["reason"], each["when"], each["client"]]
        for each in ASYNCAPI["x-live-close-codes"]
    ]
    assert table("code | reason | when | what to do") == closes
