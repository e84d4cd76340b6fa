"""Each act of the console, in a real browser on real daemons, with what it does to others."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from browser import complaints, wait_until
from clients import RawClient, message, stored
from conftest import Daemon, ShareDaemon, StartDaemon, connect, receive
from operators import Operator, call, done
from page_people import tell
from redis import Redis
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.timeout(120)

GROUP = "guild"


@pytest.fixture
def daemon(share_daemon: ShareDaemon) -> Daemon:
    return share_daemon()


@pytest.fixture
def operator(browser: webdriver.Chrome, daemon: Daemon) -> Iterator[Operator]:
    """Somebody who looks at a group in which eve has said two things and tom one."""
    tell(daemon, GROUP, ["buy gold", "buy silver"], "eve")
    tell(daemon, GROUP, ["hello"], "tom")
    here = Operator(browser, daemon)
    here.wait("#link", "Connected")
    here.enter(GROUP)
    here.wait_lines("#messages .text", ["buy gold", "buy silver", "hello"])
    yield here
    assert complaints(browser) == []
    browser.get("about:blank")


def report(redis: Redis, text: str, by: str, reason: str) -> int:
    """Somebody has reported a message."""
    entries: Any = redis.lrange(f"gml:{GROUP}", 0, -1)
    [said] = [each for each in map(json.loads, entries) if each["info"] == text]
    told = {"ts": said["ts"], "user": said["userId"], "by": by, "at": said["ts"], "reason": reason}
    redis.zadd(f"fastimd:reports:{GROUP}", {json.dumps(told): said["ts"]})
    return int(said["ts"])


def policy(daemon: Daemon) -> dict[str, Any]:
    return done(daemon, "policy", {"channel": GROUP})


def test_a_message_is_deleted(operator: Operator, redis: Redis) -> None:
    """For everybody, and it goes out of sight."""
    operator.about("buy silver")
    operator.press_button("Delete this message", "#act")
    operator.wait("#outcome", "Done: Delete this message, eve.")
    operator.wait_lines("#messages .text", ["buy gold", "hello"])
    assert stored(redis, GROUP) == ["buy gold", "hello"]


def test_all_messages_of_a_user_are_deleted(operator: Operator, redis: Redis) -> None:
    """Not before it was asked twice."""
    operator.about("buy gold")
    operator.press_button("Delete all messages of this user", "#act")
    operator.wait("#act .question", "Delete all messages of eve in the group guild")
    operator.press(Keys.ESCAPE)
    assert operator.find("#act") == []
    assert len(stored(redis, GROUP)) == 3
    operator.about("buy gold")
    operator.press_button("Delete all messages of this user", "#act")
    operator.wait("#act .question", "eve")
    operator.press(Keys.ENTER)
    operator.wait_lines("#messages .text", ["hello"])
    assert stored(redis, GROUP) == ["hello"]


def test_a_user_is_muted_and_unmuted(operator: Operator, daemon: Daemon) -> None:
    """For as long as was chosen, with a reason; the list of the muted has a way back."""
    operator.about("buy gold")
    operator.run("document.getElementById('act-duration').value = '600'")
    operator.fill("act-reason", "no trade here")
    operator.press(Keys.ENTER)
    operator.wait("#outcome", "Done: Mute, eve.")
    [mute] = policy(daemon)["mutes"]
    assert (mute["user"], mute["reason"]) == ("eve", "no trade here")
    assert 500 < mute["until"] / 1000 - time.time() < 700
    with RawClient(daemon.address, f"/group/chat/{GROUP}/eve/t") as eve:
        eve.next_text()
        eve.say("but why")
        assert "no trade here" in eve.next_text()
    operator.click("#tab-policy")
    operator.wait("#mute-list", "no trade here")
    operator.press_button("Unmute", "#mute-list")
    operator.wait_lines("#mute-list li", ["None"])
    assert policy(daemon)["mutes"] == []


async def test_a_user_is_banned_and_unbanned(
    browser: webdriver.Chrome, start_daemon: StartDaemon
) -> None:
    """Whoever is there is put out."""
    daemon = start_daemon()
    async with connect(daemon.chat_url(GROUP, "eve")) as eve:
        await receive(eve)
        operator = Operator(browser, daemon, f"#/group/{GROUP}")
        operator.wait("#member-list", "eve")
        operator.click("#member-list button")
        operator.wait("#act h2", "eve")
        operator.run("document.getElementById('act-duration').value = '0'")
        operator.press_button("Ban", "#act")
        operator.wait("#outcome", "Done: Ban, eve.")
        operator.wait("#members-note", "Nobody is here.")
    operator.click("#tab-policy")
    operator.wait("#ban-list", "Until it is lifted")
    assert [each["user"] for each in policy(daemon)["bans"]] == ["eve"]
    operator.press_button("Unban", "#ban-list")
    operator.wait_lines("#ban-list li", ["None"])
    assert policy(daemon)["bans"] == []
    browser.get("about:blank")


def test_anybody_may_be_chosen(operator: Operator, daemon: Daemon) -> None:
    """Also somebody who is not there, and has said nothing."""
    operator.click("#tab-policy")
    operator.fill("chosen", "zoe")
    operator.press(Keys.ENTER)
    operator.wait("#act h2", "zoe")
    operator.press_button("Make a moderator", "#act")
    operator.wait("#moderator-list", "zoe")
    assert policy(daemon)["moderators"] == ["zoe"]


def test_moderators_come_and_go(operator: Operator, daemon: Daemon) -> None:
    """By the list of the group."""
    operator.click("#tab-policy")
    operator.fill("appointed", "mara")
    operator.press(Keys.ENTER)
    operator.wait("#moderator-list", "mara")
    assert policy(daemon)["moderators"] == ["mara"]
    operator.press_button("Dismiss", "#moderator-list")
    operator.wait_lines("#moderator-list li", ["None"])
    assert policy(daemon)["moderators"] == []


def test_a_room_is_slowed_and_silenced(operator: Operator, daemon: Daemon) -> None:
    """And the console shows which it is."""
    operator.click("#tab-policy")
    operator.wait("#slow-state", "Slow mode is off")
    operator.fill("slow-seconds", "30")
    operator.press(Keys.ENTER)
    operator.wait("#slow-state", "one message every 30 s")
    operator.press_button("Only moderators may write", "#policy")
    operator.wait("#mute-all", "Everyone may write")
    decided = policy(daemon)
    assert (decided["slow_mode"], decided["mute_all"]) == (30, True)
    operator.press_button("Everyone may write", "#policy")
    operator.wait("#mute-all", "Only moderators may write")
    assert not policy(daemon)["mute_all"]


def test_something_is_said(operator: Operator, daemon: Daemon, redis: Redis) -> None:
    """By the server itself, or in a user's name; who listens hears it."""
    with RawClient(daemon.address, f"/group/chat/{GROUP}/tom/t") as tom:
        tom.next_text()
        operator.driver.find_element(By.ID, "words").send_keys("maintenance at noon", Keys.ENTER)
        operator.wait("#messages", "maintenance at noon")
        heard = json.loads(tom.next_text())
        assert (heard["userId"], heard["info"]) == ("", "maintenance at noon")
        operator.fill("speaker", "mara")
        operator.driver.find_element(By.ID, "words").send_keys("so be it", Keys.ENTER)
        heard = json.loads(tom.next_text())
        assert (heard["userId"], heard["info"]) == ("mara", "so be it")
    operator.wait("#messages", "so be it")
    assert stored(redis, GROUP)[-2:] == ["maintenance at noon", "so be it"]


def test_what_got_no_answer_is_said_once(operator: Operator, redis: Redis) -> None:
    """Said again, it is the same message; afterwards the same words are another one."""
    operator.run(
        """
        const ask = window.fetch;
        window.fetch = async (...call) => {
          const answer = await ask(...call);
          if (!String(call[0]).endsWith("/publish")) return answer;
          window.fetch = ask;
          throw new TypeError("the answer was lost");
        };
        """
    )
    words = operator.driver.find_element(By.ID, "words")
    words.send_keys("once", Keys.ENTER)
    operator.wait("#outcome-failure", "No answer: it may be done, or not.")
    for outcome in (["once"], ["once", "once"]):
        words.send_keys(*([] if outcome == ["once"] else ["once"]), Keys.ENTER)
        wait_until(lambda: operator.run("return words.value") == "", lambda: "it is not said")
        assert stored(redis, GROUP)[3:] == outcome


def test_a_group_is_purged(operator: Operator, redis: Redis) -> None:
    """After it was asked."""
    operator.click("#purge")
    operator.wait("#act .question", "Delete all messages of the group guild")
    operator.press_button("Close", "#act")
    assert len(stored(redis, GROUP)) == 3
    operator.click("#purge")
    operator.press_button("Delete all messages", "#act")
    operator.wait_lines("#messages .text", [])
    assert stored(redis, GROUP) == []


def test_messages_come_and_go_by_themselves(operator: Operator, daemon: Daemon) -> None:
    """What others say, and what others delete."""
    tell(daemon, GROUP, ["good morning"], "tom")
    operator.wait_lines("#messages .text", ["buy gold", "buy silver", "hello", "good morning"])
    done(daemon, "delete_messages_of", {"channel": GROUP, "user": "eve"})
    operator.wait_lines("#messages .text", ["hello", "good morning"])


@pytest.mark.parametrize(
    ("button", "outcome"),
    [
        ("Delete this message", "Done: Delete this message, eve."),
        ("Mute for 1 hour", "Done: Mute for 1 hour, eve."),
        ("Ban for 1 day", "Done: Ban for 1 day, eve."),
        ("Dismiss", "Done: Dismiss."),
    ],
)
def test_a_report_is_handled_with_a_click(
    operator: Operator, daemon: Daemon, redis: Redis, button: str, outcome: str
) -> None:
    """It shows what was said, who complains and why."""
    report(redis, "buy gold", "tom", "sells gold")
    report(redis, "buy gold", "ann", "annoys")
    operator.wait_looking("#tab-reports", "Reports (1)")
    operator.click("#tab-reports")
    operator.wait("#report-list .quote", "buy gold")
    assert "tom: sells gold" in operator.find("#report-list")[0]
    assert "ann: annoys" in operator.find("#report-list")[0]
    operator.press_button(button, "#report-list")
    operator.wait("#outcome", outcome)
    decided = policy(daemon)
    restrained = {"Mute for 1 hour": "mutes", "Ban for 1 day": "bans"}.get(button)
    if restrained:
        [sentence] = decided[restrained]
        assert sentence["user"] == "eve"
        assert sentence["reason"] in ("annoys", "sells gold")
    else:
        operator.wait("#reports-note", "No reports.")
        assert redis.zcard(f"fastimd:reports:{GROUP}") == 0
    assert ("buy gold" in stored(redis, GROUP)) == (button != "Delete this message")


def test_reports_come_by_themselves(operator: Operator, redis: Redis) -> None:
    """Their number stands where one sees it before they are opened."""
    report(redis, "buy gold", "tom", "sells gold")
    operator.wait("#tab-reports", "Reports (1)")


def test_a_search_finds_and_acts(operator: Operator, redis: Redis) -> None:
    """By text in letters of either case, by user, and further back."""
    old = [message(ts, group=GROUP, user="old", info=f"about GOLD {ts}") for ts in range(1, 131)]
    redis.lpush(f"gml:{GROUP}", *reversed(old))
    operator.press("/")
    assert operator.focus() == "search-text"
    operator.fill("search-text", "gold")
    operator.press(Keys.ENTER)
    operator.wait("#found", "100 found")
    assert operator.lines("#found-list .text")[:2] == ["buy gold", "about GOLD 130"]
    operator.press_button("Look further back", "#search")
    operator.wait("#found", "131 found")
    operator.fill("search-user", "eve")
    operator.press(Keys.ENTER)
    operator.wait_lines("#found-list .text", ["buy gold"])
    operator.about("buy gold", "#found-list")
    operator.press_button("Delete this message", "#act")
    operator.wait("#found", "Nothing found")
    assert "buy gold" not in stored(redis, GROUP)


async def test_a_user_is_disconnected(browser: webdriver.Chrome, start_daemon: StartDaemon) -> None:
    """From every group, after it was asked; the user's groups are shown."""
    daemon = start_daemon()
    async with (
        connect(daemon.chat_url(GROUP, "eve")) as one,
        connect(daemon.chat_url("club", "eve")) as two,
    ):
        await receive(one)
        await receive(two)
        operator = Operator(browser, daemon, "#/user")
        operator.fill("whom", "eve")
        operator.press(Keys.ENTER)
        operator.wait("#user-note", "Member of 2 groups")
        assert sorted(each.split()[0] for each in operator.find("#user-groups a")) == [
            "club",
            GROUP,
        ]
        operator.press_button("Disconnect everywhere", "#user")
        operator.wait("#act .question", "End all connections of eve?")
        operator.press(Keys.ENTER)
        operator.wait("#outcome", "Done: Disconnect everywhere, eve.")
    wait_until(lambda: sockets_of(daemon) == 0, lambda: f"{sockets_of(daemon)} sockets")
    browser.get("about:blank")


def sockets_of(daemon: Daemon) -> int:
    daemons = done(daemon, "status")["daemons"]
    return sum(sum(each["sockets"].values()) for each in daemons)


async def test_a_user_is_put_out_of_a_group(
    browser: webdriver.Chrome, start_daemon: StartDaemon
) -> None:
    """Only the connections there end; or the membership, too."""
    daemon = start_daemon()
    async with connect(daemon.chat_url(GROUP, "eve")) as chat:
        await receive(chat)
        operator = Operator(browser, daemon, f"#/group/{GROUP}")
        operator.wait("#member-list", "eve")
        operator.click("#member-list button")
        operator.press_button("Disconnect from this group", "#act")
        operator.wait_looking("#members-note", "Nobody is here.")
    groups = done(daemon, "groups", {"user": "eve"})["groups"]
    assert [each["channel"] for each in groups] == [GROUP]
    operator.click("#tab-policy")
    operator.fill("chosen", "eve")
    operator.press(Keys.ENTER)
    operator.press_button("Remove from this group", "#act")
    operator.wait("#outcome", "Done: Remove from this group, eve.")
    assert done(daemon, "groups", {"user": "eve"})["groups"] == []
    browser.get("about:blank")


def test_a_daemon_is_drained(browser: webdriver.Chrome, start_daemon: StartDaemon) -> None:
    """After it was asked; the overview then shows the other one alone."""
    asked, drained = start_daemon(), start_daemon()
    operator = Operator(browser, asked)
    pid = f" pid {drained.process.pid} "
    operator.wait("#daemons", pid)
    [row] = [each for each in operator.lines(".daemon") if pid in each]
    name = row.split()[0]
    operator.run("document.querySelector(arguments[0]).click()", f"[aria-label='Drain: {name}']")
    operator.wait("#act .question", f"Drain {name}?")
    operator.press_button("Drain", "#act")
    operator.wait("#outcome", "Done: Drain")
    assert drained.process.wait(20) == 0
    wait_until(lambda: pid not in str(operator.lines(".daemon")), lambda: operator.show(".daemon"))
    assert drained.events("daemon.drain_asked")
    browser.get("about:blank")


def test_what_is_refused_is_told(operator: Operator, daemon: Daemon) -> None:
    """With the reason."""
    operator.about("buy gold")
    [said] = [
        each["offset"]
        for each in done(daemon, "history", {"channel": GROUP, "limit": 9})["publications"]
        if each["data"] == "buy gold"
    ]
    call(daemon, "delete_message", {"channel": GROUP, "ts": said})
    operator.press_button("Delete this message", "#act")
    operator.wait("#outcome-failure", "Not done: no such message")
