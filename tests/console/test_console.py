"""The console itself: signing in, rights, hostile texts, keyboard, languages, policy, workers."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import complaints, find_programs, running_browser, wait_until
from clients import message, stored
from conftest import Daemon, ShareDaemon, StartDaemon, connect, receive
from operators import Operator, done, settings_with_keys
from page_people import tell
from redis import Redis
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

import fastimd
from fastimd.http.console import SHARED

pytestmark = pytest.mark.timeout(120)

CONSOLE = Path(fastimd.__file__).parent / "console"
PAGE = CONSOLE.parent / "page"
SCRIPTS = sorted(CONSOLE.glob("*.js"))
WORDS = CONSOLE / "words.js"
EVERYWHERE = {"admin__bind": "0.0.0.0:0"}
MARKUP = """<img src=x onerror="document.title='pwned'">"""


@pytest.fixture
def daemon(share_daemon: ShareDaemon) -> Daemon:
    return share_daemon()


@pytest.fixture
def operator(browser: webdriver.Chrome, daemon: Daemon) -> Iterator[Operator]:
    here = Operator(browser, daemon)
    here.wait("#link", "Connected")
    yield here
    assert complaints(browser) == []
    browser.get("about:blank")


@pytest.fixture
def exposed(start_daemon: StartDaemon, tmp_path: Path) -> Daemon:
    """A daemon whose admin address other machines can reach."""
    config = settings_with_keys(
        tmp_path,
        all={},
        guild={"methods": ["history", "reports", "mute", "presence"], "groups": ["guild"]},
        watcher={"methods": ["status", "channels", "history"]},
    )
    return start_daemon(config, **EVERYWHERE)


# Signing in, and rights


def test_whoever_comes_from_elsewhere_needs_a_key(
    browser: webdriver.Chrome, exposed: Daemon
) -> None:
    """A wrong one is refused; the right one lasts until the tab is closed, or it is given up."""
    operator = Operator(browser, exposed, "#/groups")
    operator.wait("#sign-in h2", "Sign in")
    assert operator.find("#views") == []
    assert operator.find("main .panel h2") == ["Sign in"]
    operator.fill("key", "wrong")
    operator.press(Keys.ENTER)
    operator.wait("#sign-in-failure", "This key is not known.")
    operator.fill("key", "all")
    operator.press(Keys.ENTER)
    operator.wait("#who", "all")
    operator.wait("#groups h2", "Groups")
    assert operator.run("return [localStorage.length, sessionStorage.length]") == [0, 1]
    browser.refresh()
    operator.wait("#groups h2", "Groups")
    operator.press_button("Sign out")
    operator.wait("#sign-in h2", "Sign in")
    assert operator.run("return sessionStorage.length") == 0
    browser.refresh()
    operator.wait("#sign-in h2", "Sign in")
    refused = [each for each in complaints(browser) if "401" not in each]
    assert refused == []
    browser.get("about:blank")


def test_a_key_that_is_taken_away_ends_the_session(
    browser: webdriver.Chrome, exposed: Daemon
) -> None:
    """Nothing that was shown stays in sight."""
    operator = Operator(browser, exposed)
    operator.fill("key", "all")
    operator.press(Keys.ENTER)
    operator.wait("#daemons", "ready")
    operator.run("sessionStorage.setItem('fastimd.key', 'other')")
    browser.refresh()
    operator.wait("#sign-in h2", "Sign in")
    assert operator.find("#daemons") == []
    browser.get("about:blank")


def test_a_key_for_one_group_opens_that(browser: webdriver.Chrome, exposed: Daemon) -> None:
    """It is offered its groups and its acts, and is told what it may not see."""
    tell(exposed, "guild", ["hello"], "tom")
    tell(exposed, "town", ["secret"], "tom")
    operator = Operator(browser, exposed)
    operator.fill("key", "guild")
    operator.press(Keys.ENTER)
    operator.wait("#groups-note", "Your key may not list all groups.")
    assert operator.find("#views a") == ["Groups", "Users"]
    operator.wait_lines("#group-list a", ["guild"])
    operator.click("#group-list a")
    operator.wait_lines("#messages .text", ["hello"])
    assert operator.find("#purge") == operator.find("#speak") == []
    operator.about("hello")
    assert operator.find("#act .acts button") == ["Mute"]
    operator.press_button("Mute", "#act")
    operator.wait("#outcome", "Done: Mute, tom.")
    for tab, note in (("policy", "#policy-note"), ("search", "#found")):
        operator.click(f"#tab-{tab}")
        operator.wait(note, "Your key may not do this.")
    operator.enter("town")
    operator.wait("#talk-failure", "Your key may not do this.")
    assert operator.find("#messages .text") == []
    assert "secret" not in operator.find("body")[0]
    assert [each for each in complaints(browser) if "401" not in each] == []
    browser.get("about:blank")


def test_a_key_that_only_watches_has_no_acts(browser: webdriver.Chrome, exposed: Daemon) -> None:
    """It sees daemons, groups and messages."""
    tell(exposed, "guild", ["hello"], "tom")
    operator = Operator(browser, exposed)
    operator.fill("key", "watcher")
    operator.press(Keys.ENTER)
    operator.wait("#daemons", "ready")
    assert operator.find("#daemons button") == []
    operator.enter("guild")
    operator.about("hello")
    assert operator.find("#act .acts button") == []
    browser.get("about:blank")


# What users say and are called


def test_hostile_texts_are_only_texts(operator: Operator, redis: Redis) -> None:
    """In messages, names, groups, reasons and reports: nothing of it runs."""
    group = f"g {MARKUP}"
    redis.rpush(f"gml:{group}", message(5, group=group, user=MARKUP, info=MARKUP))
    told = {"ts": 5, "user": MARKUP, "by": MARKUP, "at": 5, "reason": MARKUP}
    redis.zadd(f"fastimd:reports:{group}", {json.dumps(told): 5})
    for method in ("ban", "mute"):
        body = {"channel": group, "user": MARKUP, "seconds": 60, "reason": MARKUP}
        done(operator.daemon, method, body)
    done(operator.daemon, "moderators", {"channel": group, "add": [MARKUP]})
    operator.enter(group)
    operator.wait_lines("#messages .text", [MARKUP])
    operator.click("#tab-reports")
    operator.wait("#report-list .quote", MARKUP)
    operator.click("#tab-policy")
    for each in ("moderator", "ban", "mute"):
        operator.wait(f"#{each}-list", MARKUP)
    operator.click("#messages .more")
    operator.wait("#act h2", MARKUP)
    operator.press_button("Mute", "#act")
    operator.wait("#outcome", f"Done: Mute, {MARKUP}.")
    operator.run("location.hash = '#/user/' + encodeURIComponent(arguments[0])", MARKUP)
    operator.wait("#user-title", MARKUP)
    assert (
        operator.run("return document.querySelectorAll('body :is(img[src=x], script)').length") == 0
    )
    assert "pwned" not in operator.driver.title


# Groups by activity


async def test_the_busiest_group_stands_first(
    browser: webdriver.Chrome, start_daemon: StartDaemon
) -> None:
    """The filter finds a part of a name; Enter opens a group though nobody may be there."""
    daemon = start_daemon()
    async with (
        connect(daemon.chat_url("Anteroom")) as quiet,
        connect(daemon.chat_url("busy-room")) as busy,
    ):
        await receive(quiet)
        await receive(busy)
        operator = Operator(browser, daemon, "#/groups")
        operator.wait_lines("#group-list .name", ["Anteroom", "busy-room"])
        for number in range(20):
            await busy.send_message(f"{number}")
            await receive(busy)
        operator.wait_lines("#group-list .name", ["busy-room", "Anteroom"])
        operator.press("/")
        assert operator.focus() == "filter"
        operator.press(*"ante")
        operator.wait_lines("#group-list .name", ["Anteroom"])
        operator.fill("filter", "nobody is here")
        operator.wait("#no-groups", "No group with anybody in it.")
        operator.press(Keys.ENTER)
        operator.wait("#group-title", "nobody is here")
        operator.wait("#members-note", "Nobody is here.")
    browser.get("about:blank")


# The overview


async def test_the_charts_follow_the_daemons(
    browser: webdriver.Chrome, start_daemon: StartDaemon
) -> None:
    """Over all daemons; with what is wrong, and what has gone wrong."""
    daemons = [start_daemon(), start_daemon()]
    async with connect(daemons[1].chat_url("guild")) as chat:
        await receive(chat)
        operator = Operator(browser, daemons[0])
        for _ in range(40):
            await chat.send_message("x" * 100)
            await receive(chat)
        chart = "#charts .chart:nth-child({})"
        operator.wait(chart.format(4), "at most 1")
        wait_until(
            lambda: "at most 0" not in operator.find(chart.format(1))[0],
            lambda: operator.show(chart.format(1)),
        )
        paths = (
            "return [...document.querySelectorAll('.chart .curve')].map((e) => e.getAttribute('d'))"
        )
        wait_until(lambda: all("M" in each for each in operator.run(paths)), lambda: "no curves")
    assert operator.find("#no-troubles") == ["No warnings or errors since the daemons began."], (
        operator.show("#troubles")
    )
    browser.get("about:blank")


def test_troubles_are_shown(
    browser: webdriver.Chrome, start_daemon: StartDaemon, redis: Redis
) -> None:
    """By their events, newest first, with how often they came."""
    daemon = start_daemon()
    redis.rpush("gml:broken", "no message")
    done(daemon, "history", {"channel": "broken", "limit": 5})
    operator = Operator(browser, daemon)
    operator.wait("#troubles .event", "store.corrupt_entry")
    assert "key=gml:broken" in operator.find("#troubles")[0]
    browser.get("about:blank")


def test_a_daemon_that_has_gone_is_told(
    browser: webdriver.Chrome, start_daemon: StartDaemon
) -> None:
    """And when it is back, the page goes on by itself."""
    daemon = start_daemon()
    operator = Operator(browser, daemon)
    operator.wait("#daemons", "ready")
    bind = daemon.admin.removeprefix("http://")
    daemon.stop()
    operator.wait("#link", "No answer: the daemon cannot be reached")
    again = start_daemon(admin__bind=bind)
    operator.wait("#link", "Connected")
    operator.wait("#daemons", f" pid {again.process.pid} ")
    browser.get("about:blank")


def test_what_redis_refuses_is_told_where_it_belongs(operator: Operator, redis: Redis) -> None:
    """The daemon answers all the same, and all else goes on."""
    redis.set("gml:guild", "no list")
    operator.enter("guild")
    operator.wait("#talk-failure", "This cannot be read now:")
    assert operator.find("#link") == ["Connected"]
    redis.delete("gml:guild")
    tell(operator.daemon, "guild", ["hello"], "tom")
    operator.wait_lines("#messages .text", ["hello"])
    assert operator.find("#talk-failure") == []


def test_a_hidden_page_asks_for_nothing(operator: Operator) -> None:
    """It goes on as soon as it is looked at."""
    hide = """
    Object.defineProperty(document, "hidden", { configurable: true, get: () => arguments[0] });
    document.dispatchEvent(new Event("visibilitychange"));
    performance.clearResourceTimings();
    """
    operator.wait("#daemons", "ready")
    operator.run(hide.replace("arguments[0]", "true"))
    time.sleep(0.5)  # what was under way
    operator.run("performance.clearResourceTimings()")
    time.sleep(3)
    count = "return performance.getEntriesByType('resource').length"
    assert operator.run(count) == 0
    operator.run(hide.replace("arguments[0]", "false"))
    wait_until(lambda: operator.run(count) > 0, lambda: "nothing is asked")


# By keyboard


def test_everything_is_reached_by_keyboard(operator: Operator) -> None:
    """Arrow keys walk through lists and tabs, Tab goes on, and what has the keyboard is marked."""
    tell(operator.daemon, "guild", ["one", "two", "three"], "tom")
    operator.enter("guild")
    operator.wait_lines("#messages .text", ["one", "two", "three"])
    named = "return document.activeElement.getAttribute('aria-label') ?? document.activeElement.id"
    operator.run("document.querySelector('#messages button').focus()")
    walked = []
    for key in (Keys.ARROW_DOWN, Keys.END, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.HOME):
        operator.press(key)
        walked.append(operator.run(named))
    assert walked == [f"Act on: {text}" for text in ("two", "three", "three", "two", "one")]
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert operator.run(outline) == "solid"
    operator.press(Keys.ENTER)
    operator.wait("#act h2", "tom")
    operator.press(Keys.ESCAPE)
    assert operator.find("#act") == []
    assert operator.run(named) == "Act on: one"
    operator.run("document.getElementById('tab-members').focus()")
    tabs = []
    for key in (*[Keys.ARROW_RIGHT] * 2, *[Keys.ARROW_LEFT] * 3):
        operator.press(key)
        tabs.append(operator.focus())
    assert tabs == [f"tab-{name}" for name in ("reports", "policy", "reports", "members", "search")]
    operator.press(Keys.TAB)
    assert operator.focus() == "search-text"


def test_the_keyboard_stays_in_a_list_that_changes(operator: Operator) -> None:
    """New messages take nobody's place."""
    tell(operator.daemon, "guild", ["one"], "tom")
    operator.enter("guild")
    operator.wait_lines("#messages .text", ["one"])
    operator.run("document.querySelector('#messages button').focus()")
    tell(operator.daemon, "guild", ["two"], "tom")
    operator.wait_lines("#messages .text", ["one", "two"])
    label = "return document.activeElement.getAttribute('aria-label')"
    assert operator.run(label) == "Act on: one"


def test_messages_do_not_move_under_a_reader(operator: Operator) -> None:
    """They follow what comes, in a window of any size, only while their end is in sight."""
    tell(operator.daemon, "guild", [f"line {number}" for number in range(30)], "tom")
    operator.enter("guild")
    operator.wait("#messages", "line 29")
    below = """
    const part = document.getElementById('scroller');
    return part.scrollHeight - part.scrollTop - part.clientHeight
    """
    wait_until(lambda: operator.run(below) < 2, lambda: str(operator.run(below)))
    operator.resize(1200, 500)
    wait_until(lambda: operator.run(below) < 2, lambda: str(operator.run(below)))
    operator.run("document.getElementById('scroller').scrollTop = 0")
    tell(operator.daemon, "guild", ["one more"], "tom")
    operator.wait("#messages", "one more")
    assert operator.run("return document.getElementById('scroller').scrollTop") == 0


# Languages, themes and sizes


def test_both_languages(daemon: Daemon, tmp_path: Path) -> None:
    """The browser's comes first; the switch turns everything, and is remembered."""
    tell(daemon, "guild", ["hello"], "tom")
    with running_browser(find_programs(), tmp_path / "profile", "zh-CN") as browser:
        operator = Operator(browser, daemon)
        operator.wait("#link", "已连接")
        assert operator.run("return document.documentElement.lang") == "zh-CN"
        assert operator.find("#views a") == ["概览", "群组", "用户"]
        operator.enter("guild")
        operator.about_in("操作：hello", "hello")
        assert "禁言" in operator.find("#act .acts button")
        operator.press(Keys.ESCAPE)
        operator.click("#language")
        assert operator.find("#views a") == ["Overview", "Groups", "Users"]
        operator.wait("#members-note", "Nobody is here.")
        browser.refresh()
        operator.wait("#link", "Connected")
        assert complaints(browser) == []
        assert operator.run("return document.documentElement.lang") == "en"


def words_of(path: Path, language: str) -> list[str]:
    """The names of the words of a script in a language."""
    block = re.search(rf"^  {language}: \{{\n(.*?)^  \}},$", path.read_text(), re.M | re.S)
    assert block is not None
    return re.findall(r"^    (\w+): ", block[1], re.M)


def test_each_word_stands_in_both_languages() -> None:
    """Once. Chinese has no singular; none is one of those that are shared with the chat page."""
    english, chinese = (words_of(WORDS, language) for language in ("en", "zh"))
    assert [each for each in english if not each.endswith("One")] == chinese
    shared = words_of(PAGE / "moderation-words.js", "en")
    assert sorted({*english, *shared}) == sorted([*english, *shared])
    assert len(chinese) > 80


def test_each_word_is_said_and_none_is_missing() -> None:
    """By the scripts or by the page."""
    known = {*words_of(WORDS, "en"), *words_of(PAGE / "moderation-words.js", "en")}
    files = [each for each in (*SCRIPTS, CONSOLE / "console.html") if each != WORDS]
    sources = "\n".join(each.read_text() for each in files)
    said = re.findall(r'\bdata-(?:text|label|placeholder)="(\w+)"', sources)
    said += re.findall(r'\b(?:say|label)\((?:[^"();]|\([^()]*\))*, "(\w+)"', sources)
    said += re.findall(r'\b(?:phrase|actButton|Chart)\("(\w+)"', sources)
    assert len(said) > 100
    assert set(said) - known == set()
    idle = {
        each for each in words_of(WORDS, "zh") if not re.search(rf'"{each}"|\b{each}: ', sources)
    }
    assert {each for each in idle if not each.startswith("theme_")} == {"otherLanguage"}


def test_the_theme_is_the_systems_or_the_chosen_one(operator: Operator) -> None:
    """The switch goes from one to the next, and is remembered."""
    colour = "return getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(243, 245, 247)", "rgb(17, 21, 27)"
    for scheme, shown in (("dark", dark), ("light", light)):
        emulated = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        operator.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
        assert operator.run(colour) == shown
    operator.click("#theme")
    assert (operator.find("#theme"), operator.run(colour)) == (["Theme: light"], light)
    operator.click("#theme")
    wait_until(lambda: operator.run(colour) == dark, lambda: str(operator.run(colour)))
    operator.driver.refresh()
    operator.wait("#theme", "Theme: dark")
    assert operator.run(colour) == dark
    operator.click("#theme")
    assert operator.find("#theme") == ["Theme: system"]
    operator.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_nothing_sticks_out(operator: Operator, redis: Redis, width: int) -> None:
    """However long names, words and reasons are."""
    long = "long" * 30
    redis.rpush(f"gml:{long}", message(5, group=long, user=long, info=long * 10))
    told = {"ts": 5, "user": long, "by": long, "at": 5, "reason": long * 2}
    redis.zadd(f"fastimd:reports:{long}", {json.dumps(told): 5})
    body = {"channel": long, "user": long, "seconds": 0, "reason": long * 2}
    done(operator.daemon, "ban", body)
    operator.resize(width)
    for part in ("#/", "#/groups", f"#/user/{long}", f"#/group/{long}"):
        operator.run("location.hash = arguments[0]", part)
        check_width(operator, width)
    operator.wait("#messages .text", long)
    for tab in ("reports", "policy", "search", "members"):
        operator.click(f"#tab-{tab}")
        check_width(operator, width)
    operator.run("document.querySelector('#messages button').click()")
    operator.wait("#act h2", long)
    check_width(operator, width)


def check_width(operator: Operator, width: int) -> None:
    """Nothing is wider than the window, nor than what it stands in."""
    script = """
    const parts = [...document.querySelectorAll("main, .panel, #scroller")];
    const ends = parts.filter((e) => e.checkVisibility())
      .map((e) => e.getBoundingClientRect().left + e.scrollWidth);
    return [document.documentElement.scrollWidth, ...ends];
    """
    assert max(operator.run(script)) <= width + 1


# How it is served


def test_it_is_served_under_a_strict_policy(daemon: Daemon) -> None:
    """No script or style stands in the page, and nothing comes from elsewhere."""
    with urllib.request.urlopen(f"{daemon.admin}/console") as answer:
        headers, page = answer.headers, answer.read().decode()
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert not re.search(r"<style|\bstyle=|\bon\w+=|<script(?! type=\"module\" src=)", page)
    assert not re.search(r"(?:src|href)=\"(?:\w+:|//)", page)
    for script in SCRIPTS:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", script.read_text()
        )
    with urllib.request.urlopen(f"{daemon.admin}/") as answer:
        assert answer.url == f"{daemon.admin}/console"
    with urllib.request.urlopen(f"{daemon.admin}/console/") as answer:
        assert answer.url == f"{daemon.admin}/console"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{daemon.admin}/console/chat.js")
    with refused.value:
        assert refused.value.code == 404


def test_all_comes_from_the_daemon(operator: Operator, daemon: Daemon) -> None:
    """Every file of the console is served, and all that it loads is the daemon's."""
    for part in ("#/groups", "#/group/guild", "#/user/tom"):
        operator.go(part)
        operator.wait("#link", "Connected")
    loaded = operator.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert all(
        each.startswith((f"{daemon.admin}/console/", f"{daemon.admin}/api/")) for each in loaded
    )
    for name in (*SHARED, *(each.name for each in SCRIPTS)):
        with urllib.request.urlopen(f"{daemon.admin}/console/{name}") as answer:
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"], name


def test_no_other_page_may_call(daemon: Daemon) -> None:
    """A call of an operator wants a header that no page of another host can send."""
    asking = urllib.request.Request(
        f"{daemon.admin}/api/whoami", b"{}", {"Host": "evil.example", "Fastimd-Command": "1"}
    )
    for each in (asking, urllib.request.Request(f"{daemon.admin}/api/whoami", b"{}")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(each)
        with refused.value:
            assert refused.value.code == 401


def test_it_works_with_several_workers(
    browser: webdriver.Chrome, start_daemon: StartDaemon, redis: Redis
) -> None:
    """Each is shown as a daemon; an act reaches those at every worker."""
    daemon = start_daemon(server__workers="2")
    tell(daemon, "guild", ["buy gold"], "eve")
    operator = Operator(browser, daemon)
    for started in daemon.events("worker.started"):
        operator.wait("#daemons", f" pid {started['pid']} ")
    operator.enter("guild")
    operator.about("buy gold")
    operator.press_button("Delete this message", "#act")
    operator.wait_lines("#messages .text", [])
    assert stored(redis, "guild") == []
    assert complaints(browser) == []
    browser.get("about:blank")
