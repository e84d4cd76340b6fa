"""What moderators type in ``fastimd chat``, and what is told of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import Daemon, ShareDaemon, run_fastimd, wait_for
from people import PASSWORD, SCREEN_SECONDS, Person, chatting

from fastimd.base.codec import Message
from fastimd.terminal.commands import ACTS, Command, Unknown
from fastimd.terminal.events import Acted
from fastimd.terminal.moderating import read_act, told

pytestmark = pytest.mark.timeout(120)

SHOWN = [
    Message("7", "lin", "one", 1),
    Message("7", "lin", "two", 2),
    Message("7", "two words", "three", 3),
]


@pytest.mark.parametrize(
    ("name", "argument", "method", "data"),
    [
        ("/mute", "lin", "mute", {"user": "lin", "seconds": 0, "reason": ""}),
        ("/mute", "lin 5 spam", "mute", {"user": "lin", "seconds": 300, "reason": "spam"}),
        ("/ban", "lin be gone", "ban", {"user": "lin", "seconds": 0, "reason": "be gone"}),
        ("/unban", "two␣words", "unban", {"user": "two words"}),
        ("/unmute", "lin", "unmute", {"user": "lin"}),
        ("/slow", "30", "slow_mode", {"seconds": 30}),
        ("/silence", "on", "mute_all", {"on": True}),
        ("/silence", "off", "mute_all", {"on": False}),
        ("/delete", "lin", "delete_message", {"ts": 2}),
        ("/delete", "lin all", "delete_messages_of", {"user": "lin"}),
        ("/report", "two␣words rude", "report", {"ts": 3, "reason": "rude"}),
    ],
)
def test_commands_are_methods(
    name: str, argument: str, method: str, data: dict[str, object]
) -> None:
    """Each with the data that the live wire asks for."""
    assert read_act(Command(name, argument), SHOWN) == (method, data)
    assert name in ACTS


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("/slow", "fast"),
        ("/silence", "perhaps"),
        ("/delete", "eve"),
        ("/delete", "lin some"),
        ("/report", "lin"),
        ("/report", "eve rude"),
    ],
)
def test_what_makes_no_sense_is_told(name: str, argument: str) -> None:
    """Nothing is sent."""
    with pytest.raises(Unknown):
        read_act(Command(name, argument), SHOWN)


def test_acts_are_told() -> None:
    """With their end and their reason, if they have one."""
    assert told(Acted("mute", 0, "spam")) == "you are muted: spam"
    assert told(Acted("ban", 1_700_000_000_000)).startswith("you are banned until 2023-11-1")
    assert told(Acted("slow_mode", seconds=5)) == "slow mode: one message every 5 s"
    assert told(Acted("slow_mode")) == "slow mode is off"
    assert told(Acted("of a later version")) == ""


@pytest.fixture
def people(share_daemon: ShareDaemon) -> Iterator[tuple[Daemon, Person, Person]]:
    """Mara, who is a moderator, and Lin."""
    daemon = share_daemon()
    operate(daemon, "moderator", "7", "--add", "mara")
    seated: list[Person] = []
    try:
        for user in ("mara", "lin"):
            command = chatting(f"ws://{daemon.address}/", "7", "--user", user)
            seated.append(Person(command, {"FASTIMD_CHAT_PASSWORD": PASSWORD}))
            seated[-1].sees(f"{user} in group 7")
            knows_who_is_here(seated[-1])
        yield daemon, seated[0], seated[1]
    finally:
        for person in seated:
            print("\n".join([f"-- {person.process.args!r}", *person.lines]))
            person.__exit__(None, None, None)


def operate(daemon: Daemon, *arguments: str) -> None:
    ended = run_fastimd(*arguments, admin__bind=daemon.admin.removeprefix("http://"))
    assert ended.returncode == 0, ended


def knows_who_is_here(person: Person) -> None:
    """Wait until the live wire is there."""

    def asks() -> bool:
        person.enter("/who")
        return " here: " in person.text

    wait_for(asks, seconds=SCREEN_SECONDS)


def test_a_moderator_acts_and_all_are_told(people: tuple[Daemon, Person, Person]) -> None:
    """Mutes, deletes, slows, silences, bans; who is no moderator is refused."""
    _, mara, lin = people
    lin.enter("buy gold")
    mara.sees("lin: buy gold")
    lin.enter("/mute mara")
    lin.sees("not a moderator of this group")
    mara.enter("/report lin sells gold")
    mara.sees("done: /report lin sells gold")
    mara.enter("/reports")
    mara.sees("lin (buy gold): mara says sells gold")
    mara.enter("/delete lin")
    lin.sees("-- taken back: lin: buy gold --")
    mara.enter("/mute lin 5 no trade here")
    lin.sees("-- you are muted until 20", ": no trade here --")
    lin.enter("but why")
    lin.sees("not sent: but why (", "(muted until")
    mara.enter("/unmute lin")
    lin.sees("-- you are no longer muted --")
    mara.enter("/slow 5")
    lin.sees("-- slow mode: one message every 5 s --")
    mara.enter("/slow 0")
    lin.sees("-- slow mode is off --")
    mara.enter("/silence on")
    lin.sees("-- only moderators may write now --")
    mara.enter("/silence off")
    lin.sees("-- everyone may write again --")
    mara.enter("/ban lin 5 enough")
    assert lin.wait() != 0
    lin.sees("fastimd: the server ended it: banned until")
    mara.sees("-- lin is gone --")
