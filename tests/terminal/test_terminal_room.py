"""What ``fastimd chat`` tells on a terminal beside the messages, with real daemons."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from clients import RawClient, log_in, post
from conftest import Daemon, ShareDaemon, StartDaemon, run_fastimd, wait_for
from faults import free_port
from people import PASSWORD, SCREEN_SECONDS, Person, chatting

pytestmark = pytest.mark.timeout(120)

Enter = Callable[..., Person]


@pytest.fixture
def daemon(share_daemon: ShareDaemon) -> Daemon:
    """One with default settings, that the tests share."""
    return share_daemon()


@pytest.fixture
def enter() -> Iterator[Enter]:
    """Seat somebody at a terminal, in a group, until the live wire is there."""
    people: list[Person] = []

    def sit_down(daemon: Daemon, user: str, group: str = "7") -> Person:
        command = chatting(f"ws://{daemon.address}/", group, "--user", user)
        person = Person(command, {"FASTIMD_CHAT_PASSWORD": PASSWORD})
        people.append(person)
        person.sees(f"{user} in group {group}")
        return person

    yield sit_down
    for person in people:
        print("\n".join([f"-- {person.process.args!r}", *person.lines]))
        person.__exit__(None, None, None)


def is_here(daemon: Daemon, *users: str) -> None:
    """Wait until these are on the live wire."""
    wait_for(
        lambda: (
            {line["user"] for line in daemon.events("socket.opened") if line["kind"] == "live"}
            >= set(users)
        )
    )


def say(daemon: Daemon, user: str, text: str, group: str = "7") -> None:
    with RawClient(daemon.address, f"/group/chat/{group}/{user}/t") as client:
        client.next_text()
        client.say(text)
        client.next_text()


def lists(person: Person, group: str) -> None:
    """Ask for the groups until one of them is told so."""

    def asks() -> bool:
        person.enter("/groups")
        return any(row.startswith(group) for row in person.lines)

    wait_for(asks, seconds=SCREEN_SECONDS)


def asks_who(person: Person, told: str) -> None:
    """Ask who is here until it is told."""

    def asks() -> bool:
        person.enter("/who")
        return told in person.text

    wait_for(asks, seconds=SCREEN_SECONDS)


def test_who_comes_and_goes(daemon: Daemon, enter: Enter) -> None:
    """It is told, and asked for; not of oneself."""
    mara = enter(daemon, "mara")
    is_here(daemon, "mara")
    lin = enter(daemon, "lin")
    mara.sees("-- lin is here --")
    asks_who(mara, "2 here: lin, mara")
    lin.enter("/quit")
    assert lin.wait() == 0
    mara.sees("-- lin is gone --")
    asks_who(mara, "1 here: mara")
    assert "mara is here" not in mara.text


def test_who_types(daemon: Daemon, enter: Enter) -> None:
    """It stands before the line of the others until it is said; a command is not told."""
    mara, lin = enter(daemon, "mara"), enter(daemon, "lin")
    is_here(daemon, "mara", "lin")
    lin.type("/who")
    lin.type("\x15half")
    mara.sees_typed("7 (lin is typing)>", 19)
    mara.type("mine")
    mara.sees_typed("7 (lin is typing)> mine")
    lin.enter(" a line")
    mara.sees("lin: half a line")
    mara.sees_typed("7> mine")


def test_what_is_taken_back_is_told(daemon: Daemon, enter: Enter) -> None:
    """With its text, to the others; a purge too. What is gone cannot be recalled."""
    mara, lin = enter(daemon, "mara"), enter(daemon, "lin")
    is_here(daemon, "mara", "lin")
    mara.enter("a slip")
    lin.sees("mara: a slip")
    mara.enter("/recall")
    mara.sees("recalled: a slip")
    lin.sees("-- taken back: mara: a slip --")
    assert "taken back" not in mara.text
    lin.enter("one more")
    mara.sees("lin: one more")
    bind = daemon.admin.removeprefix("http://")
    assert run_fastimd("purge", "7", "--yes", admin__bind=bind).returncode == 0
    for person in (mara, lin):
        person.sees("-- all messages so far were deleted --")
    lin.enter("/recall")
    lin.sees("no own message")


def test_what_is_unread_is_told(daemon: Daemon, enter: Enter) -> None:
    """``/groups`` has it; what was shown is read, on other devices too."""
    post(daemon, "/user/joinGroup", {"groupId": "club"}, log_in(daemon, "mara"))
    for text in ("one", "two", "three"):
        say(daemon, "eve", text, group="club")
    say(daemon, "eve", "hello")
    mara = enter(daemon, "mara")
    is_here(daemon, "mara")
    lists(mara, "club: 3 messages, 3 unread, ")
    lists(mara, "7: 1 messages, 2")  # the year: nothing is unread
    other = enter(daemon, "mara")
    mara.enter("/join club")
    mara.sees("mara in group club")
    say(daemon, "eve", "four", group="club")
    mara.sees("eve: four")
    lists(other, "club: 4 messages, 2")


def test_a_server_that_does_not_tell_who_is_here(start_daemon: StartDaemon, enter: Enter) -> None:
    """The client says so, and the chat goes on."""
    daemon = start_daemon(presence__enabled="false")
    mara, lin = enter(daemon, "mara"), enter(daemon, "lin")
    is_here(daemon, "mara", "lin")
    asks_who(mara, "this server does not tell who is here")
    lin.enter("hello")
    mara.sees("lin: hello")


def test_it_comes_back_after_a_restart(start_daemon: StartDaemon, enter: Enter) -> None:
    """And tells what was taken back meanwhile."""
    settings: dict[str, Any] = {"server__bind": f"127.0.0.1:{free_port()}"}
    first, second = start_daemon(**settings), start_daemon()
    mara = enter(first, "mara")
    is_here(first, "mara")
    with RawClient(second.address, "/group/chat/7/lin/t") as lin:
        lin.next_text()
        lin.say("a slip")
        mara.sees("lin: a slip")
        assert first.stop() == 0
        mara.sees("connection lost")
        token = log_in(second, "lin")
        [entry] = post(second, "/group/listMessage", PAGE, token).json["data"]
        ts = entry.partition('"ts":')[2].rstrip("}")
        post(second, "/group/delMessage", {"groupId": "7", "ts": ts}, token)
        again = start_daemon(**settings)
        mara.sees("-- connected again", "-- taken back: lin: a slip --")
        is_here(again, "mara")
        asks_who(mara, "2 here: lin, mara")


PAGE = {"groupId": "7", "startPage": "0", "endPage": "0"}
