"""``fastimd chat`` on a real terminal and in a pipe, with real daemons."""

from __future__ import annotations

import fcntl
import http.server
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from clients import RawClient, log_in, message, post
from conftest import Daemon, ShareDaemon, StartDaemon, redis_servers, run_fastimd, wait_for
from faults import MortalRedis, free_port
from people import PASSWORD, SCREEN_SECONDS, Person, chatting
from redis import Redis

from fastimd.terminal.failures import (
    EXIT_FLOOD,
    EXIT_KICKED,
    EXIT_LOCAL,
    EXIT_LOGIN,
    EXIT_NO_MEMBER,
    EXIT_UNAVAILABLE,
    EXIT_UNSENT,
    EXIT_USAGE,
)
from fastimd.terminal.script import ANSWER_SECONDS, MOST_UNANSWERED

pytestmark = pytest.mark.timeout(120)

WITH_PASSWORD = {"FASTIMD_CHAT_PASSWORD": PASSWORD}
BEGAN = 1_700_000_000_000
"""A ts of the past."""

Enter = Callable[..., Person]


@pytest.fixture
def daemon(share_daemon: ShareDaemon) -> Daemon:
    """One that the tests share; it tells nobody who comes and goes amid what they look at."""
    return share_daemon(presence__enabled="false")


@pytest.fixture
def enter() -> Iterator[Enter]:
    """Seat somebody at a terminal, in a group."""
    people: list[Person] = []

    def sit_down(daemon: Daemon, user: str, *options: str, group: str = "7", **more: Any) -> Person:
        command = chatting(f"ws://{daemon.address}/", group, "--user", user, *options)
        people.append(Person(command, WITH_PASSWORD, **more))
        people[-1].sees(f"{user} in group {group}")
        return people[-1]

    with show_screens(people):
        yield sit_down


@contextmanager
def show_screens(people: list[Person]) -> Iterator[None]:
    try:
        yield
    finally:
        for person in people:
            print("\n".join([f"-- {person.process.args!r}", *person.lines]))
            person.__exit__(None, None, None)


def say(daemon: Daemon, user: str, *texts: str, group: str = "7") -> None:
    """Another client of a user says something, and hears it."""
    with RawClient(daemon.address, f"/group/chat/{group}/{user}/t") as client:
        client.next_text()
        for text in texts:
            client.say(text)
            while json.loads(client.next_text())["info"] != text:
                pass


def fill(redis: Redis, count: int, *, user: str = "old", first: int = 0) -> None:
    """Put messages of the past into group 7."""
    entries = [
        message(BEGAN + number, group="7", user=user, info=f"old {number}")
        for number in range(first, first + count)
    ]
    redis.rpush("gml:7", *entries)


def run_script(
    daemon: Daemon, *options: str, typed: str = "", user: str = "mara", group: str = "7"
) -> tuple[int, list[dict[str, Any]], str]:
    """Run a chat in a pipe to its end: the status, what it told, and its standard error."""
    arguments = ("chat", f"ws://{daemon.address}/", group, "--user", user, *options)
    ended = run_fastimd(*arguments, typed=typed, chat_password=PASSWORD)
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr


def infos(told: list[dict[str, Any]]) -> list[str]:
    return [line["info"] for line in told if line["type"] == "message"]


def start_script(
    *arguments: str, stdin: Any = subprocess.PIPE, through: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """A chat in a pipe that goes on.

    Args:
        through: a command that runs it.
    """
    return subprocess.Popen(
        [*through, *chatting(*arguments)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **WITH_PASSWORD},
    )


def next_of(script: subprocess.Popen[bytes], kind: str) -> dict[str, Any]:
    """The next line of a kind."""
    assert script.stdout is not None
    while line := script.stdout.readline():
        told: dict[str, Any] = json.loads(line)
        if told["type"] == kind:
            return told
    raise AssertionError(f"ended without {kind}")


def end(script: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Let a script end; its status and standard error."""
    _, said = script.communicate(timeout=20)
    return script.returncode, said.decode()


# What is shown


def test_two_people_talk_and_a_half_typed_line_survives(daemon: Daemon, enter: Enter) -> None:
    """What comes in stands above the line that is being typed; own messages are marked."""
    mara, lin = enter(daemon, "mara"), enter(daemon, "lin")
    mara.type("half a ")
    mara.sees_typed("7> half a", 10)
    lin.enter("hello mara")
    mara.sees("  lin: hello mara")
    mara.sees_typed("7> half a", 10)
    mara.enter("line")
    lin.sees("  mara: half a line")
    mara.sees("* mara: half a line")
    mara.sees_typed("7>", 3)
    lin.sees_typed("7>", 3)
    assert [row[6:] for row in lin.lines[2:-1]] == ["* lin: hello mara", "  mara: half a line"]
    assert re.match(r"\d\d:\d\d \* lin", lin.lines[2])


def test_the_greeting_is_shown_with_its_days(daemon: Daemon, redis: Redis, enter: Enter) -> None:
    """The history stands above, oldest first, each day before its messages."""
    fill(redis, 2)
    redis.rpush("gml:7", message(BEGAN + 86_400_000, group="7", user="mara", info="a day later"))
    mara = enter(daemon, "mara")
    day, old, older, next_day, later = mara.lines[:5]
    assert re.fullmatch(r"-- 2023-11-1\d --", day)
    assert old.endswith("  old: old 0")
    assert older.endswith("  old: old 1")
    assert re.fullmatch(r"-- 2023-11-1\d --", next_day)
    assert next_day != day
    assert later.endswith("* mara: a day later")


def test_wide_characters_are_measured(daemon: Daemon, enter: Enter) -> None:
    """The cursor stands where the terminal has it, and a line is edited by what is seen."""
    mara, lin = enter(daemon, "mara"), enter(daemon, "lin")
    mara.type("你好吗")
    mara.sees_typed("7> 你好吗", 3 + 6)
    mara.type("\x1b[D\x1b[D")
    mara.sees_typed("7> 你好吗", 3 + 2)
    mara.type("\x7f👍")
    mara.sees_typed("7> 👍好吗", 3 + 2)
    mara.type("\r")
    lin.sees("  mara: 👍好吗")


def test_a_long_line_goes_on_in_the_next_row(daemon: Daemon, enter: Enter) -> None:
    """It is shown whole, also when others speak meanwhile, and sent whole."""
    mara, lin = enter(daemon, "mara"), enter(daemon, "lin")
    mara.type("你" * 60 + "end")
    mara.sees_typed("你" * 22 + "end", 47)
    say(daemon, "eve", "amid")
    mara.sees("eve: amid")
    mara.type("\x01")
    mara.sees_typed("7> " + "你" * 38, 3)
    assert len(mara.lines) == 5
    mara.type("\r")
    lin.sees("end")
    lin.sees_typed("7>", 3)
    shown = "".join(row.strip().removeprefix("mara: ") for row in lin.lines[2:-1])
    assert shown.count("你") == 60


HOSTILE = (
    "\x1b]0;owned\x07title",
    "\x1b[2J\x1b[Hcleared",
    "\x9b2Jcleared",
    "over\rwritten\x08\x08",
    "\u202egnol\u202c",
    "first\n12:00 * mara: I agree",
    "x" * 79 + "12:00 * mara: I agree, too",
    "e" + "\u0301" * 200,
    "👍🏽" * 30 + "12:00 * mara: I agree, of course",
)
"""The last one is wider than it counts, on terminals that draw a colour of skin by itself."""


def test_nothing_from_others_is_obeyed(daemon: Daemon, enter: Enter) -> None:
    """Controls are escapes, and no row but our own begins at the margin."""
    mara = enter(daemon, "mara")
    mara.type("half typed")
    say(daemon, "eve", *HOSTILE, "the last")
    mara.sees("eve: the last")
    mara.sees_typed("7> half typed")
    assert b"\x1b]" not in mara.raw
    assert b"\x1b[2J" not in mara.raw
    assert not re.search("[\u0080-\u009f\u202a-\u202e]", mara.raw.decode())
    assert mara.text.count("12:00 * mara: I agree") == 2
    assert all(re.match(r"\d\d:\d\d   eve: |-- | {10}|7>", row) for row in mara.lines)
    assert r"\x1b]0;owned\x07title" in mara.text
    assert r"over\rwritten\x08\x08" in mara.text
    assert "          12:00 * mara: I agree" in mara.lines


def test_colours_can_be_turned_off(daemon: Daemon, enter: Enter) -> None:
    """``NO_COLOR`` is honoured, ``--color`` stronger; names are coloured otherwise."""
    say(daemon, "lin", "hello")
    coloured = enter(daemon, "mara")
    command = chatting(f"ws://{daemon.address}/", "7", "--user", "mara")
    with Person(command, WITH_PASSWORD | {"NO_COLOR": "1"}) as plain:
        plain.sees("mara in group 7")
    never = enter(daemon, "mara", "--color", "never")
    with Person([*command, "--color", "always"], WITH_PASSWORD | {"NO_COLOR": "1"}) as always:
        always.sees("mara in group 7")
    colour = rb"\x1b\[38;5;\d+mlin\x1b\[0m: hello"
    assert re.search(colour, coloured.raw)
    assert re.search(colour, always.raw)
    assert not re.search(rb"\x1b\[0?[1-9;][0-9;]*m", plain.raw + never.raw)


def test_a_window_may_change_its_size(daemon: Daemon, enter: Enter) -> None:
    """The line and what comes then have the new width."""
    mara = enter(daemon, "mara", columns=100)
    mara.type("y" * 70)
    mara.sees_typed("7> " + "y" * 70)
    mara.resize(40)
    wait_for(lambda: mara.input_row == ("y" * 33, 33))
    say(daemon, "lin", "word " * 20)
    mara.sees("lin: word word")
    first, *further = [row for row in mara.lines if "word" in row]
    assert len(first) <= 40
    assert len(further) >= 2
    assert all(row.startswith(" " * 10) and len(row) <= 40 for row in further)


def test_a_paste_of_several_lines_is_one_message(daemon: Daemon, enter: Enter) -> None:
    """It is shown as it is, and goes out with Enter."""
    mara, lin = enter(daemon, "mara"), enter(daemon, "lin")
    mara.type("\x1b[200~one\ntwo\nthree\x1b[201~")
    wait_for(lambda: mara.lines[-3:] == ["7> one", "two", "three"])
    mara.type("\r")
    lin.sees("three")
    lin.sees_typed("7>", 3)
    assert [row.strip() for row in lin.lines[-4:-1]][1:] == ["two", "three"]
    assert lin.lines[-4].endswith("  mara: one")


def test_a_terminal_with_another_encoding(daemon: Daemon) -> None:
    """What is typed is read in it, and what it cannot show is an escape."""
    command = chatting(f"ws://{daemon.address}/", "7", "--user", "mara")
    with Person(command, WITH_PASSWORD | {"PYTHONIOENCODING": "latin-1"}) as mara:
        mara.sees("mara in group 7")
        with RawClient(daemon.address, "/group/chat/7/lin/t") as lin:
            lin.next_text()
            mara.type(b"\xe9t\xe9\r")
            assert json.loads(lin.next_text())["info"] == "été"
        wait_for(lambda: b": \xe9t\xe9\r\n" in mara.raw)
        say(daemon, "lin", "你 é")
        wait_for(lambda: b": \\u4f60 \xe9\r\n" in mara.raw)


def test_only_own_lines_begin_at_the_margin_of_a_narrow_window(daemon: Daemon) -> None:
    """Also where the client tells what somebody said."""
    say(daemon, "mara", "hello", group="club")
    say(daemon, "eve", "12:00 * mara: I agree. " * 3, group="club")
    command = chatting(f"ws://{daemon.address}/", "7", "--user", "mara")
    with Person(command, WITH_PASSWORD, columns=30) as mara:
        mara.sees("mara in group 7")
        mara.enter("/groups")
        mara.sees("7: no messages")
        assert "mara: I" in mara.text
        assert all(re.match(r"-- |club: |7|(?: {10})", row) for row in mara.lines)


# Commands


def test_history_pages_back(daemon: Daemon, redis: Redis, enter: Enter) -> None:
    """``/history`` shows what is older than the oldest on the screen, until there is no more."""
    fill(redis, 320)
    mara = enter(daemon, "mara")
    mara.enter("/history 3")
    mara.sees("-- end of the older messages --")
    shown = [row.rpartition(" ")[2] for row in mara.lines if "old: old" in row]
    assert shown[:50] == [str(number) for number in range(270, 320)]
    assert shown[50:] == ["267", "268", "269"]
    mara.enter("/history 500")
    mara.sees("old: old 0\n")
    mara.enter("/history")
    mara.sees("no older messages")
    shown = [row.rpartition(" ")[2] for row in mara.lines if "old: old" in row]
    assert sorted(map(int, shown)) == list(range(320))
    mara.enter("/history 0")
    mara.sees("/history takes a number from 1 to")


def test_history_of_the_beginning_is_chosen(daemon: Daemon, redis: Redis, enter: Enter) -> None:
    """``--history`` shows fewer messages than the greeting has, or more."""
    fill(redis, 300)
    for count in (0, 3, 260, 400):
        _, told, _ = run_script(daemon, "--history", str(count))
        assert infos(told) == [f"old {number}" for number in range(max(0, 300 - count), 300)]
    mara = enter(daemon, "mara", "--history", "0")
    assert "old: old" not in mara.text
    mara.enter("/history 3")
    mara.sees("-- end of the older messages --")
    assert [row[6:] for row in mara.lines if "old: old" in row] == [
        f"  old: old {number}" for number in (297, 298, 299)
    ]


def test_my_groups_are_listed(daemon: Daemon, enter: Enter) -> None:
    """``/groups`` has the newest message and the count of each, ``/join`` goes there."""
    say(daemon, "mara", "first", "second\nline", group="club")
    post(daemon, "/user/joinGroup", {"groupId": "silent"}, log_in(daemon, "mara"))
    mara = enter(daemon, "mara")
    mara.enter("/groups")
    mara.sees("club: 2 messages, ", r"mara: second\nline", "silent: no messages")
    mara.type("/join cl\t")
    mara.sees_typed("7> /join club")
    mara.type("\r")
    mara.sees("mara in group club, 2 messages")
    mara.sees_typed("club>", 6)
    say(daemon, "lin", "not here")
    say(daemon, "lin", "but here", group="club")
    mara.sees("lin: but here")
    assert "not here" not in mara.text
    mara.enter("/join " + "x" * 129)
    mara.sees("GROUP: must be 1 to 128")
    mara.enter("still here")
    mara.sees("* mara: still here")


def test_what_follows_a_join_is_said_there(daemon: Daemon, redis: Redis, enter: Enter) -> None:
    """However fast it is typed after it."""
    mara = enter(daemon, "mara")
    mara.type("here\r/join club\rthere\rthere, too\r")
    mara.sees("* mara: there, too")
    stored = [
        [json.loads(entry)["info"] for entry in redis.lrange(f"gml:{group}", 0, -1)]
        for group in ("7", "club")
    ]
    assert stored == [["here"], ["there", "there, too"]]
    assert "perhaps" not in mara.text


def test_a_message_that_has_not_come_back_is_not_recalled(
    daemon: Daemon, redis: Redis, enter: Enter
) -> None:
    """Nor is the one before it, which the person does not mean."""
    mara = enter(daemon, "mara")
    mara.enter("to keep")
    mara.sees("* mara: to keep")
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        mara.enter("to recall")
        mara.enter("/recall")
        mara.sees("your last message has not come back yet")
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    mara.sees("* mara: to recall")
    mara.enter("/recall")
    mara.sees("recalled: to recall")
    assert [json.loads(entry)["info"] for entry in redis.lrange("gml:7", 0, -1)] == ["to keep"]


def test_own_messages_are_recalled(daemon: Daemon, redis: Redis, enter: Enter) -> None:
    """The last one, or the Nth last; a refusal is told."""
    redis.rpush("gml:7", message(BEGAN, group="7", user="mara", info="of long ago"))
    mara = enter(daemon, "mara")
    mara.type("one\rtwo\rthree\r/recall\r")
    mara.sees("recalled: three")
    mara.enter("/recall 2")
    mara.sees("recalled: one")
    left = [json.loads(entry)["info"] for entry in redis.lrange("gml:7", 0, -1)]
    assert left == ["of long ago", "two"]
    mara.enter("/recall 2")
    mara.sees("it is too old to be recalled")
    mara.enter("/recall 3")
    mara.sees("you have no 3 messages here")
    redis.delete("gml:7")
    mara.enter("/recall")
    mara.sees("it is not there any more")


def test_messages_of_the_history_can_be_recalled(
    daemon: Daemon, redis: Redis, enter: Enter
) -> None:
    """Own ones that ``/history`` has shown are among the last."""
    redis.rpush("gml:7", message(BEGAN, group="7", user="mara", info="of long ago"))
    mara = enter(daemon, "mara", "--history", "0")
    mara.enter("/recall")
    mara.sees("no own message")
    mara.enter("/history")
    mara.sees("-- end of the older messages --")
    mara.enter("/recall")
    mara.sees("it is too old to be recalled")


def test_commands_are_known_and_slashes_can_be_said(daemon: Daemon, enter: Enter) -> None:
    """An unknown command is told and not said; two slashes say one; Tab shows what there is."""
    mara, lin = enter(daemon, "mara"), enter(daemon, "lin")
    mara.enter("/nope secret")
    mara.sees("no command /nope")
    mara.enter("/help")
    mara.sees("/recall [N]")
    mara.type("/h\t\t")
    wait_for(lambda: re.search(r"^/help +/history$", mara.text, re.M))
    mara.type("\x15//nope\r")
    lin.sees("mara: /nope")
    assert "secret" not in lin.text
    mara.type("\x1b[A")
    mara.sees_typed("7> //nope")
    mara.type("\x15/quit\r")
    assert mara.wait() == 0


# How it ends, and what it leaves


def test_what_was_entered_is_said_before_the_end(daemon: Daemon, redis: Redis) -> None:
    """However fast the end is typed after it."""
    command = chatting(f"ws://{daemon.address}/", "7", "--user", "mara")
    with Person(command, WITH_PASSWORD) as mara:
        mara.sees("mara in group 7")
        mara.type("one\r/groups\rtwo\rthree\r\x04")
        assert mara.wait() == 0
    said = [json.loads(entry)["info"] for entry in redis.lrange("gml:7", 0, -1)]
    assert said == ["one", "two", "three"]
    assert "not sent" not in mara.text


def assert_given_back(person: Person) -> None:
    """Pastes come without brackets, rows wrap, and the cursor is seen."""
    for on, off in ((b"?2004l", b"?2004h"), (b"?7h", b"?7l"), (b"?25h", b"?25l")):
        assert person.raw.rfind(b"\x1b[" + on) > person.raw.rfind(b"\x1b[" + off)


@pytest.mark.parametrize(
    ("keys", "number", "status"),
    [
        ("\x04", None, 0),
        ("\x03", None, 130),
        ("\x1c", None, 131),
        (None, signal.SIGINT, 130),
        (None, signal.SIGTERM, 143),
        (None, signal.SIGHUP, 129),
    ],
)
def test_the_terminal_is_put_back(
    daemon: Daemon, enter: Enter, keys: str | None, number: int | None, status: int
) -> None:
    """Keys and signals end it cleanly: close 1000, the modes as before, the last row empty."""
    mara = enter(daemon, "mara")
    mara.type("half typed")
    mara.sees_typed("7> half typed")
    assert mara.mode != mara.mode_before
    if keys == "\x04":
        mara.type("\x15")
    if keys is not None:
        mara.type(keys)
    if number is not None:
        mara.process.send_signal(number)
    assert mara.wait() == status
    assert mara.mode == mara.mode_before
    wait_for(lambda: mara.input_row == ("", 0) and "half typed" not in mara.text)
    assert_given_back(mara)
    assert "Traceback" not in mara.text
    closed = wait_for(lambda: daemon.events("socket.closed"))
    assert {line["code"] for line in closed} == {1000}


def test_the_terminal_is_put_back_after_a_crash() -> None:
    """Also when the client itself is at fault."""
    crash = (
        "import trio\n"
        "from fastimd.terminal.prompt import Prompt\n\n"
        "async def crash():\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        await nursery.start(Prompt(lambda: '> ', lambda line: ('', []), '').run)\n"
        "        raise RuntimeError('on purpose')\n\n"
        "trio.run(crash)\n"
    )
    with Person([sys.executable, "-c", crash]) as person:
        assert person.wait() == 1
        person.sees("RuntimeError: on purpose")
        assert person.mode == person.mode_before
        assert_given_back(person)


def test_a_frozen_window_keeps_nobody(daemon: Daemon, enter: Enter) -> None:
    """A signal ends the client though nothing that it writes is taken."""
    mara = enter(daemon, "mara")
    mara.freeze_window()
    say(daemon, "lin", *(letter * 60_000 for letter in "abcdef"))
    mara.process.terminate()
    assert mara.wait() == 143
    assert mara.mode == mara.mode_before


def test_it_stops_and_goes_on(daemon: Daemon) -> None:
    """Ctrl-Z gives the terminal to the shell, ``fg`` takes it back with the line as it was."""
    shell = ["bash", "--norc", "--noprofile", "-i"]
    with Person(shell, WITH_PASSWORD | {"PS1": "shell$ "}) as mara:
        mara.sees("shell$")
        chat = chatting(f"ws://{daemon.address}/", "7", "--user", "mara")
        mara.enter(" ".join(chat))
        mara.sees("mara in group 7")
        mara.type("half")
        mara.sees_typed("7> half")
        mara.type("\x1a")
        mara.sees("Stopped")
        mara.enter("echo in the $((20 + 2))nd shell")
        mara.sees("in the 22nd shell")
        say(daemon, "lin", "while you were away")
        mara.enter("fg")
        mara.sees("lin: while you were away")
        mara.sees_typed("7> half")
        mara.type(" done\r")
        mara.sees("* mara: half done")
        mara.type("\x04")
        mara.sees_typed("shell$", 7)
        mara.enter("echo status $?")
        mara.sees("status 0")


def test_it_goes_on_after_it_was_stopped_from_elsewhere(daemon: Daemon, enter: Enter) -> None:
    """It takes the terminal again, which a shell has put back meanwhile."""
    mara = enter(daemon, "mara")
    mara.type("half")
    mara.sees_typed("7> half")
    taken = mara.mode
    mara.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: state_of(mara.process.pid) == "T")
    mara.set_mode(mara.mode_before)
    mara.process.send_signal(signal.SIGCONT)
    wait_for(lambda: mara.mode == taken, seconds=SCREEN_SECONDS)
    mara.enter(" done")
    mara.sees("* mara: half done")


def state_of(pid: int) -> str:
    """The letter of a process's state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_closed_window_ends_it(daemon: Daemon, enter: Enter) -> None:
    """When the terminal has gone, the client goes."""
    mara = enter(daemon, "mara")
    mara.close_window()
    assert mara.wait() == 129


# Outages


def test_a_message_that_is_too_large_is_told_in_a_line(daemon: Daemon, enter: Enter) -> None:
    """With its beginning; Up brings it back."""
    mara = enter(daemon, "mara")
    mara.type("\x1b[200~" + "word " * 14_000 + "\x1b[201~")
    mara.sees_typed("rd", 3)
    mara.type("\r")
    mara.sees("more than 65536 bytes (1009)", "not sent: " + "word " * 10 + "...")
    assert mara.text.count("word") == 10
    mara.type("\x1b[A")
    mara.sees_typed("rd", 3)


def restart(daemon: Daemon, start: StartDaemon, **settings: str) -> Daemon:
    """Another daemon on the port of one that has ended."""
    return start(server__bind=daemon.address, **settings)


@pytest.fixture
def mortal(start_daemon: StartDaemon) -> Daemon:
    """A daemon whose port stays free when it ends."""
    return start_daemon(server__bind=f"127.0.0.1:{free_port()}")


def test_a_restart_loses_and_doubles_nothing(
    mortal: Daemon, start_daemon: StartDaemon, enter: Enter
) -> None:
    """While two people talk the daemon drains and comes back: each message stands once."""
    mara, lin = enter(mortal, "mara"), enter(mortal, "lin")
    mara.enter("before from mara")
    lin.enter("before from lin")
    for person in (mara, lin):
        person.sees("mara: before from mara", "lin: before from lin")
    assert mortal.stop() == 0
    for person in (mara, lin):
        person.sees("-- connection lost: the server restarts; trying again --")
    mara.enter("typed meanwhile")
    mara.sees("-- it is sent when the connection stands --")
    restart(mortal, start_daemon)
    for person in (mara, lin):
        person.sees("-- connected again", "mara: typed meanwhile")
    lin.enter("after from lin")
    for person in (mara, lin):
        person.sees("lin: after from lin")
        said = re.findall(r": ((?:before|typed|after) .*)", person.text)
        assert sorted(said[:2]) == ["before from lin", "before from mara"]
        assert said[2:] == ["typed meanwhile", "after from lin"]
        assert person.text.count("connection lost") == 1


def test_what_was_missed_is_read_from_the_history(
    mortal: Daemon, start_daemon: StartDaemon, redis: Redis, enter: Enter
) -> None:
    """More than a greeting has, and more than a page: all of it, in order, once."""
    fill(redis, 10)
    mara = enter(mortal, "mara")
    mortal.stop()
    mara.sees("connection lost")
    fill(redis, 470, first=10)
    restart(mortal, start_daemon, group_message__list_num="5")
    mara.sees("-- connected again, 470 messages missed --", "old: old 479")
    shown = [int(row.rpartition(" ")[2]) for row in mara.lines if "old: old" in row]
    assert shown == list(range(480))


def test_a_message_that_was_lost_is_told(
    mortal: Daemon, start_daemon: StartDaemon, redis: Redis, enter: Enter
) -> None:
    """What the server had not stored when it was killed is told, and not repeated."""
    mara = enter(mortal, "mara")
    mara.enter("stored")
    mara.sees("* mara: stored")
    mortal.process.send_signal(signal.SIGSTOP)
    mara.enter("swallowed")
    wait_for(lambda: mara.input_row == ("7>", 3))
    wait_for(lambda: unread_bytes(mortal) > 0)
    mortal.expected_status = -signal.SIGKILL
    mortal.stop(signal.SIGKILL)
    mara.sees("-- connection lost: the network or the server went away; trying again --")
    restart(mortal, start_daemon)
    mara.sees("-- connected again, 0 messages missed --", "not sent: swallowed")
    mara.enter("at last")
    mara.sees("* mara: at last")
    assert [json.loads(entry)["info"] for entry in redis.lrange("gml:7", 0, -1)] == [
        "stored",
        "at last",
    ]


def unread_bytes(daemon: Daemon) -> int:
    """Bytes that wait in the kernel for a daemon that does not read."""
    port = f":{int(daemon.address.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        int(row[4].split(":")[1], 16) for row in rows if row[1].endswith(port) and row[3] == "01"
    )


def test_a_message_whose_echo_was_lost_is_found(
    mortal: Daemon, start_daemon: StartDaemon, redis: Redis, enter: Enter
) -> None:
    """It was stored and its sender never heard so: it stands once, and nothing is told."""
    mara = enter(mortal, "mara")
    mortal.process.send_signal(signal.SIGSTOP)
    mara.enter("stored after all")
    wait_for(lambda: unread_bytes(mortal) > 0)
    mortal.expected_status = -signal.SIGKILL
    mortal.stop(signal.SIGKILL)
    redis.rpush("gml:7", message(BEGAN, group="7", user="mara", info="stored after all"))
    restart(mortal, start_daemon)
    mara.sees("-- connected again, 1 messages missed --", "* mara: stored after all")
    mara.enter("next")
    mara.sees("* mara: next")
    assert "not sent" not in mara.text
    assert mara.text.count("stored after all") == 1


def test_redis_dies_and_comes_back(tmp_path: Path, enter: Enter, start_daemon: StartDaemon) -> None:
    """What is said meanwhile comes through, or is told as not sent; nothing comes twice."""
    store = MortalRedis(redis_servers()[0], tmp_path / "store")
    try:
        daemon = start_daemon(redis__url=store.url, redis__hold_seconds="30")
        mara, lin = enter(daemon, "mara"), enter(daemon, "lin")
        mara.enter("before")
        lin.sees("mara: before")
        store.kill()
        mara.enter("meanwhile")
        mara.enter("/groups")
        mara.sees("Redis is away")
        store.start()
        lin.sees("mara: meanwhile")
        mara.sees("* mara: meanwhile")
        lin.enter("after")
        mara.sees("lin: after")
        for person in (mara, lin):
            assert person.text.count(": meanwhile") == 1
        for person in (mara, lin):
            person.type("\x04")
            assert person.wait() == 0
        assert daemon.stop() == 0
    finally:
        store.close()


# For good


def operate(daemon: Daemon, *arguments: str) -> None:
    ended = run_fastimd(*arguments, admin__bind=daemon.admin.removeprefix("http://"))
    assert ended.returncode == 0, ended


def test_who_is_kicked_is_told(daemon: Daemon, enter: Enter) -> None:
    """It ends, with a status of its own, and does not come back."""
    mara = enter(daemon, "mara")
    operate(daemon, "kick", "mara")
    assert mara.wait() == EXIT_KICKED
    mara.sees("fastimd: the server ended it: kicked")
    assert mara.mode == mara.mode_before


def test_who_is_no_member_any_more_is_told(
    start_daemon: StartDaemon, redis: Redis, enter: Enter
) -> None:
    """With ``auto_join`` off one joins at the beginning, and is not let in when that is undone."""
    settings = {"group__auto_join": "false", "server__bind": f"127.0.0.1:{free_port()}"}
    daemon = start_daemon(**settings)
    mara = enter(daemon, "mara")
    mara.enter("hello")
    mara.sees("* mara: hello")
    redis.delete("ugs:mara")
    daemon.stop()
    start_daemon(**settings | {"server__bind": daemon.address})
    assert mara.wait() == EXIT_NO_MEMBER
    mara.sees("fastimd: the server ended it: not a member")


@pytest.mark.timeout(180)
def test_who_floods_is_told(start_daemon: StartDaemon) -> None:
    """It ends with a status of its own, and tells what did not come back."""
    daemon = start_daemon(socket__max_messages_per_second="20", socket__message_burst="1")
    lines = "".join(f"line {number}\n" for number in range(1000))
    status, told, said = run_script(daemon, typed=lines)
    assert (status, said) == (EXIT_FLOOD, "fastimd: the server ended it: flood\n")
    unsent = [line["info"] for line in told if line["type"] == "error"]
    assert 0 < len(infos(told)) < 1000
    assert set(infos(told)).isdisjoint(unsent)


def test_a_lost_token_is_renewed_once(
    start_daemon: StartDaemon, redis: Redis, enter: Enter
) -> None:
    """440 is answered with another login; when that token is taken at once as well, it ends."""
    daemon = start_daemon(group__login_auth="true")
    mara = enter(daemon, "mara")
    redis.delete("login:mara")
    mara.enter("without a token")
    mara.sees("-- connected again", "not sent: without a token")
    mara.enter("with a token")
    mara.sees("* mara: with a token")
    log_in(daemon, "mara")  # elsewhere
    mara.enter("/history")
    mara.sees("login required again: has mara logged in elsewhere?")
    mara.enter("without a token again")
    assert mara.wait() == EXIT_LOGIN
    mara.sees("fastimd: login required again: has mara logged in elsewhere?")


def test_a_token_that_a_command_has_renewed_is_used(
    start_daemon: StartDaemon, redis: Redis, enter: Enter
) -> None:
    """The socket goes on with it, and the token is not taken for lost twice."""
    daemon = start_daemon(group__login_auth="true")
    mara = enter(daemon, "mara")
    redis.delete("login:mara")
    mara.enter("/groups")
    mara.sees("7: no messages")
    mara.enter("with the old token")
    mara.sees("-- connected again", "not sent: with the old token")
    mara.enter("with the new one")
    mara.sees("* mara: with the new one")


def test_the_password_is_asked_for(daemon: Daemon) -> None:
    """On the terminal, without showing it; an empty one is none."""
    with Person(chatting(f"ws://{daemon.address}/", "7", "--user", "mara")) as mara:
        mara.sees("Password for mara:")
        mara.enter("s3cret")
        mara.sees("mara in group 7")
        assert "s3cret" not in mara.text
    with Person(chatting(f"ws://{daemon.address}/", "7", "--user", "mara")) as mara:
        mara.sees("Password for mara:")
        mara.enter("")
        assert mara.wait() == EXIT_USAGE
        mara.sees("fastimd: the password is empty")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_terminal_is_put_back_when_a_password_is_asked_for(number: int, status: int) -> None:
    """The echo comes back, and the shell's next line begins at the margin."""
    with Person(chatting("ws://127.0.0.1:1/", "7", "--user", "mara")) as mara:
        mara.sees("Password for mara:")
        wait_for(lambda: state_of(mara.process.pid) == "S")  # it reads
        assert mara.mode != mara.mode_before
        mara.process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            mara.process.wait(5)
        if mara.process.poll() is None:  # it came just before the read, where Python misses it
            mara.process.send_signal(number)
        assert mara.wait() == status
        assert mara.mode == mara.mode_before
        wait_for(lambda: mara.raw == b"Password for mara: \r\n")


def test_a_signal_after_the_password_ends_it_as_ever() -> None:
    """While the server does not answer the login."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}/"
        with Person(chatting(url, "7", "--user", "mara")) as mara:
            mara.sees("Password for mara:")
            mara.enter("s3cret")
            connection, _ = silent.accept()
            with connection:
                mara.process.terminate()
                assert mara.wait() == -signal.SIGTERM
            assert "Traceback" not in mara.text


# In a pipe


def test_lines_go_in_and_json_comes_out(daemon: Daemon, redis: Redis) -> None:
    """A line is a message whatever it begins with; at the end of the input all has come back."""
    fill(redis, 1)
    status, told, said = run_script(daemon, typed="hi\n/quit\n\n//x\r\nno end")
    assert (status, said) == (0, "")
    kinds = [line["type"] for line in told]
    assert kinds == ["message", "joined", "message", "message", "message", "message"]
    assert told[0] == {
        "type": "message",
        "groupId": "7",
        "userId": "old",
        "info": "old 0",
        "ts": BEGAN,
    }
    assert told[1] == {"type": "joined", "groupId": "7", "total": 1}
    assert infos(told)[1:] == ["hi", "/quit", "//x", "no end"]
    listed = [json.loads(entry) for entry in redis.lrange("gml:7", 1, -1)]
    assert [{"type": "message", **entry} for entry in listed] == told[2:]


def test_thousands_of_lines_come_through_in_order(daemon: Daemon, redis: Redis) -> None:
    """Each once, and nothing is left behind when it ends."""
    lines = [f"line {number} 你好" for number in range(4000)]
    status, told, said = run_script(daemon, typed="\n".join(lines))
    assert (status, said) == (0, "")
    assert infos(told) == lines
    assert redis.llen("gml:7") == len(lines)


def test_not_too_many_are_on_their_way(daemon: Daemon) -> None:
    """The input waits for a daemon that does not answer; what was said is told at the end."""
    script = start_script(f"ws://{daemon.address}/", "7", "--user", "mara")
    next_of(script, "joined")
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        assert script.stdin is not None
        script.stdin.write(b"ten bytes.\n" * 200)
        script.stdin.flush()
        frame = 2 + 4 + len(b"ten bytes.")
        wait_for(lambda: unread_bytes(daemon) >= MOST_UNANSWERED * frame)
        script.terminate()
        out, _ = script.communicate(timeout=20)
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    told = [json.loads(line) for line in out.splitlines()]
    expected = {"type": "error", "error": "no answer", "info": "ten bytes."}
    assert told == [expected] * MOST_UNANSWERED
    assert script.returncode == 143


def test_rubbish_is_told_and_not_sent(daemon: Daemon, redis: Redis) -> None:
    """Bytes that are no UTF-8, lines that are too long here or there; the others are sent."""
    script = start_script(f"ws://{daemon.address}/", "7", "--user", "mara")
    rubbish = [b"good", bytes(range(0x80, 0x100)), b"x" * 2_000_000, b"\x00\x1b", b"y" * 70_000]
    out, said = script.communicate(b"\n".join(rubbish), timeout=30)
    told = [json.loads(line) for line in out.splitlines()]
    assert (script.returncode, said) == (EXIT_UNSENT, b"")
    assert infos(told) == ["good", "\x00\x1b"]
    errors = [(line["error"], line["info"][:3]) for line in told if line["type"] == "error"]
    assert sorted(errors) == [("not UTF-8", "\\x8"), ("not sent", "yyy"), ("too long", "xxx")]
    assert b"\x1b" not in out
    lost = [line for line in told if line["type"] == "state"]
    assert [line["state"] for line in lost] == ["lost", "connected"]
    assert "(1009)" in lost[0]["reason"]


def test_an_empty_input_ends_it(daemon: Daemon) -> None:
    """``< /dev/null`` reads the greeting; ``--follow`` goes on until a signal."""
    status, told, _ = run_script(daemon)
    assert (status, [line["type"] for line in told]) == (0, ["joined"])
    script = start_script(
        f"ws://{daemon.address}/", "7", "--user", "mara", "--follow", stdin=subprocess.DEVNULL
    )
    next_of(script, "joined")
    say(daemon, "lin", "one")
    assert next_of(script, "message")["info"] == "one"
    script.terminate()
    assert end(script) == (143, "")
    closed = daemon.events("socket.closed")
    assert [each["code"] for each in closed if each["user"] == "mara"] == [1000] * 2


def test_a_reader_that_has_enough_ends_it(daemon: Daemon, redis: Redis) -> None:
    """As ``| head`` does: quietly, also when nothing more is said in the group."""
    fill(redis, 40)
    script = start_script(f"ws://{daemon.address}/", "7", "--user", "mara")
    assert script.stdout is not None
    assert script.stderr is not None
    told = [json.loads(script.stdout.readline()) for _ in range(41)]
    script.stdout.close()
    assert told[-1]["type"] == "joined"
    assert script.wait(timeout=20) == 0
    assert script.stderr.read() == b""
    script.communicate()


def test_a_reader_that_stops_reading_keeps_nobody(daemon: Daemon, redis: Redis) -> None:
    """A signal ends the client though nobody takes what it writes."""
    fill(redis, 3000)
    options = ("--user", "mara", "--history", "3000")
    script = start_script(f"ws://{daemon.address}/", "7", *options)
    wait_for(lambda: waiting_bytes(script) > 60_000, seconds=20)
    script.terminate()
    assert script.wait(timeout=20) == 143
    script.communicate()


def waiting_bytes(script: subprocess.Popen[bytes]) -> int:
    """What a script has written and nobody has read."""
    assert script.stdout is not None
    count = fcntl.ioctl(script.stdout, termios.FIONREAD, bytes(4))
    return int.from_bytes(count, sys.byteorder)


def test_descriptors_that_do_not_block_are_waited_for(daemon: Daemon, redis: Redis) -> None:
    """Others who have them may have made them so."""
    fill(redis, 3000)
    script = start_script(
        f"ws://{daemon.address}/", "7", "--user", "mara", "--history", "3000", through=UNBLOCKED
    )
    assert script.stdin is not None
    assert script.stdout is not None
    fcntl.fcntl(script.stdout, fcntl.F_SETPIPE_SZ, 4096)  # it is full again and again
    wait_for(lambda: waiting_bytes(script) > 4000, seconds=20)
    told = [next_of(script, "message")["info"] for _ in range(3000)]
    next_of(script, "joined")
    assert told == [f"old {number}" for number in range(3000)]
    script.stdin.write(b"late\n")
    script.stdin.close()
    script.stdin = None
    assert next_of(script, "message")["info"] == "late"
    assert end(script) == (0, "")


UNBLOCKED = (
    *(sys.executable, "-c"),
    "import os, sys\n"
    "os.set_blocking(0, False)\nos.set_blocking(1, False)\nos.execv(sys.argv[1], sys.argv[1:])\n",
)


def test_a_terminal_as_input_follows(daemon: Daemon) -> None:
    """With the output in a pipe what is typed is text, and Ctrl-D ends it."""
    chat = " ".join(chatting(f"ws://{daemon.address}/", "7", "--user", "mara"))
    with Person(["bash", "-c", f"{chat} | cat"], WITH_PASSWORD) as mara:
        mara.sees('"type":"joined"')
        mara.enter("/help")
        mara.sees('"info":"/help"')
        say(daemon, "lin", "hello")
        mara.sees('"info":"hello"')
        mara.type("\x04")
        assert mara.wait() == 0


@pytest.mark.parametrize(
    ("mode", "stdout", "said"),
    [
        (os.O_RDONLY, "/dev/full", "standard output: No space left on device"),
        (os.O_WRONLY, os.devnull, "standard input: Bad file descriptor"),
    ],
)
def test_an_input_or_output_that_fails_is_told(
    daemon: Daemon, mode: int, stdout: str, said: str
) -> None:
    """In a line, with a status of its own."""
    source, sink = os.open(os.devnull, mode), os.open(stdout, os.O_WRONLY)
    try:
        ended = subprocess.run(
            chatting(f"ws://{daemon.address}/", "7", "--user", "mara", "--follow"),
            stdin=source,
            stdout=sink,
            stderr=subprocess.PIPE,
            env={**os.environ, **WITH_PASSWORD},
            text=True,
            timeout=30,
            check=False,
        )
    finally:
        os.close(source)
        os.close(sink)
    assert (ended.returncode, ended.stderr) == (EXIT_LOCAL, f"fastimd: {said}\n")


def test_a_script_goes_through_a_restart(mortal: Daemon, start_daemon: StartDaemon) -> None:
    """It tells the state, says what it read meanwhile, and ends when that has come back."""
    script = start_script(f"ws://{mortal.address}/", "7", "--user", "mara")
    next_of(script, "joined")
    mortal.stop()
    assert next_of(script, "state")["state"] == "lost"
    assert script.stdin is not None
    script.stdin.write(b"meanwhile\n")
    script.stdin.close()
    script.stdin = None
    restart(mortal, start_daemon)
    assert next_of(script, "state") == {"type": "state", "state": "connected", "missed": 0}
    assert next_of(script, "message")["info"] == "meanwhile"
    assert end(script) == (0, "")


# What keeps it from beginning


def free_url() -> str:
    return f"ws://127.0.0.1:{free_port()}/"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("{nobody}", "7"), EXIT_UNAVAILABLE, "cannot reach {nobody}: Connection refused"),
        (("ws://" + "x" * 64 + "/", "7"), EXIT_UNAVAILABLE, "cannot reach ws://xxx"),
        (("{daemon}no/such/prefix", "7"), EXIT_UNAVAILABLE, "is no fastimd (HTTP 404)"),
        (("ftp://127.0.0.1/", "7"), EXIT_USAGE, "not an address like ws://HOST:PORT/: ftp://"),
        (("{daemon}", " "), EXIT_USAGE, "GROUP: must be 1 to 128 printable characters"),
        (("{daemon}", "7", "--user", "x\ny"), EXIT_USAGE, "--user: must be 1 to 128"),
        (("ws://127.0.0.1:0/", "7"), EXIT_USAGE, "not an address like ws://HOST:PORT/: ws://"),
        (("{daemon}",), EXIT_USAGE, "GROUP is missing: it comes after the address"),
        (("7", "{daemon}"), EXIT_USAGE, "GROUP is missing: it comes after the address"),
        (("{daemon}", "7", "--history", "-1"), EXIT_USAGE, "--history: from 0 to"),
        (("{daemon}", "7", "--password-file", "/no"), EXIT_USAGE, "/no: No such file"),
    ],
)
def test_what_cannot_begin_is_told_in_a_line(
    daemon: Daemon, arguments: tuple[str, ...], status: int, said: str
) -> None:
    """On standard error, without a traceback."""
    urls = {"nobody": free_url(), "daemon": f"ws://{daemon.address}/"}
    given = [argument.format(**urls) for argument in arguments]
    ended = run_fastimd("chat", *given, chat_password=PASSWORD)
    assert (ended.returncode, ended.stdout) == (status, "")
    assert ended.stderr.startswith("fastimd: ")
    assert said.format(**urls) in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_the_status_tells_it_where_standard_error_cannot(redirection: str) -> None:
    """Closed, as from some schedulers, or full."""
    chat = " ".join(chatting(free_url(), "7"))
    ended = subprocess.run(
        ["bash", "-c", f"{chat} {redirection}"],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **WITH_PASSWORD},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (EXIT_UNAVAILABLE, b"")


def test_a_script_is_not_asked_for_a_password(daemon: Daemon, tmp_path: Path) -> None:
    """Without a terminal it must be given; the first line of a file is one."""
    arguments = ("chat", f"ws://{daemon.address}/", "7", "--user", "mara")
    ended = run_fastimd(*arguments)
    assert ended.returncode == EXIT_USAGE
    assert "FASTIMD_CHAT_PASSWORD" in ended.stderr
    (tmp_path / "password").write_text("s3cret\n")
    assert run_fastimd(*arguments, "--password-file", str(tmp_path / "password")).returncode == 0


HOOK = """
def log_in(user, password):
    return {} if password == "right" else None
"""


def test_a_wrong_password_is_told(
    start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a status of its own."""
    (tmp_path / "terminal_hook.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    daemon = start_daemon(login__hook="terminal_hook:log_in")
    status, _, said = run_script(daemon)
    assert status == EXIT_LOGIN
    assert said == (
        f"fastimd: ws://{daemon.address}/ does not let mara in: wrong user or password\n"
    )
    arguments = ("chat", f"ws://{daemon.address}/", "7", "--user", "mara")
    assert run_fastimd(*arguments, chat_password="right").returncode == 0


JUDGING = """
from dataclasses import replace

from fastimd.hooks import Refused


async def on_message(message):
    if message.info == "buy gold":
        raise Refused("no advertisements")
    if message.info == "fail":
        raise RuntimeError("a fault of the tests")
    return replace(message, info=message.info.replace("darn", "****"))
"""


@pytest.fixture
def judging(
    share_daemon: ShareDaemon, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Daemon:
    """A daemon whose hook refuses texts, fails at some and changes others."""
    (shared_folder / "terminal_judging.py").write_text(JUDGING)
    monkeypatch.setenv("PYTHONPATH", f"{shared_folder}:{os.environ.get('PYTHONPATH', '')}")
    return share_daemon(hooks__handler="terminal_judging")


def test_what_a_hook_declines_is_told_in_a_pipe(judging: Daemon) -> None:
    """With the reason and status 1, without waiting; what it changes counts as said."""
    began = time.monotonic()
    status, told, said = run_script(judging, typed="darn it\nbuy gold\nplain\nfail\n")
    assert time.monotonic() - began < ANSWER_SECONDS
    assert (status, said) == (EXIT_UNSENT, "")
    assert infos(told) == ["**** it", "plain"]
    assert [line for line in told if line["type"] == "error"] == [
        {"type": "error", "error": "declined", "info": text, "reason": reason}
        for text, reason in (
            ("buy gold", "no advertisements"),
            ("fail", "暂时无法服务 (try again)"),
        )
    ]
    status, told, said = run_script(judging, typed="darn it\ndarn it\n")
    assert (status, infos(told)[-2:], said) == (0, ["**** it", "**** it"], "")


def test_what_a_hook_declines_is_told_on_a_terminal(judging: Daemon, enter: Enter) -> None:
    """With the reason; the others see what is left, as it was changed."""
    mara, lin = enter(judging, "mara"), enter(judging, "lin")
    mara.enter("buy gold")
    mara.sees("not sent: buy gold (no advertisements)")
    mara.enter("fail")
    mara.sees("not sent: fail (暂时无法服务 (try again))")
    mara.enter("darn it")
    lin.sees("  mara: **** it")
    mara.sees("* mara: **** it")
    mara.enter("/quit")
    assert mara.wait() == 0
    assert "perhaps not sent" not in mara.text
    assert "gold" not in lin.text


def test_a_full_server_is_told(start_daemon: StartDaemon) -> None:
    """A refusal before the login, and one of the socket."""
    daemon = start_daemon(server__max_connections_per_ip="1")
    with RawClient(daemon.address, "/group/chat/7/lin/t"):
        status, _, said = run_script(daemon)
    assert status == EXIT_UNAVAILABLE
    assert re.fullmatch(r"fastimd: ws://\S+ refuses: .+ \(HTTP 429\)\n", said)


@pytest.mark.parametrize(
    ("status", "headers", "body", "said"),
    [
        (302, {"Location": "/elsewhere"}, b"", "is no fastimd (HTTP 302, see /elsewhere)"),
        (200, {}, b"<html>", "is no fastimd (HTTP 200)"),
        (200, {}, b"[]", "is no fastimd (HTTP 200)"),
        (503, {}, rb'{"code":503,"msg":"\u001b[2Jno"}', r"refuses: \x1b[2Jno (HTTP 503)"),
    ],
)
def test_another_server_is_told(
    status: int, headers: dict[str, str], body: bytes, said: str
) -> None:
    """What is no fastimd, and where it points to; nothing that it says is obeyed."""
    with serving(status, headers, body) as url:
        ended = run_fastimd("chat", url, "7", chat_password=PASSWORD)
    assert ended.returncode == EXIT_UNAVAILABLE
    assert ended.stderr.endswith(f"{said}\n")
    assert len(ended.stderr.splitlines()) == 1


@contextmanager
def serving(status: int, headers: dict[str, str], body: bytes) -> Iterator[str]:
    """A server with one answer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


# Behind a proxy


class Front:
    """A proxy with TLS and a path before the daemon's own, one thread a way."""

    def __init__(self, daemon: Daemon, tls: ssl.SSLContext, prefix: bytes) -> None:
        host, port = daemon.address.split(":")
        self._target = (host, int(port))
        self._tls = tls
        self._prefix = prefix
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._ends: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for end in (*self._ends, self._listener):
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
                outside = self._tls.wrap_socket(plain, server_side=True)
            except ssl.SSLError:
                continue  # a client that does not believe the certificate
            except OSError:
                return
            inside = socket.create_connection(self._target)
            self._ends += [outside, inside]
            for ends in ((outside, inside), (inside, outside)):
                self._threads.append(threading.Thread(target=self._pump, args=ends))
                self._threads[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data.replace(b" " + self._prefix, b" "))
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def test_tls_and_a_prefix(daemon: Daemon, certificate: Path) -> None:
    """``wss://`` with a path reaches the daemon; a certificate that nobody vouches for does not."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    front = Front(daemon, tls, b"/under/here")
    try:
        url = f"wss://127.0.0.1:{front.port}/under/here/"
        run = partial(run_fastimd, "chat", url, "7", "--user", "mara", typed="hi\n")
        refused = run(chat_password=PASSWORD)
        assert refused.returncode == EXIT_UNAVAILABLE
        reason = "its certificate is not good: self-signed certificate"
        assert refused.stderr == f"fastimd: cannot reach {url}: {reason}\n"
        os.environ["SSL_CERT_FILE"] = str(certificate)
        try:
            ended = run(chat_password=PASSWORD)
        finally:
            del os.environ["SSL_CERT_FILE"]
        assert (ended.returncode, ended.stderr) == (0, "")
        assert infos([json.loads(line) for line in ended.stdout.splitlines()]) == ["hi"]
    finally:
        front.close()
