"""What a room shows on the test page beside its messages, in real browsers on real daemons."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from browser import wait_until
from clients import RawClient, message
from conftest import Daemon, StartDaemon
from page_people import Person, tell
from redis import Redis
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("leaving")]


def people(daemon: Daemon, browsers: list[webdriver.Chrome]) -> tuple[Person, Person]:
    """Ada and Bob in a group."""
    ada, bob = (Person(b, daemon, u) for b, u in zip(browsers, ("ada", "bob"), strict=True))
    for person in (ada, bob):
        person.enter("guild")
    return ada, bob


def test_who_is_here(start_daemon: StartDaemon, browsers: list[webdriver.Chrome]) -> None:
    """Their number and their names, as they come and go; by keyboard, too."""
    ada, bob = people(start_daemon(), browsers)
    ada.wait("#here", "2 here")
    assert ada.find("#members") == []
    ada.run("document.getElementById('here').focus()")
    ada.press(Keys.ENTER)
    assert ada.focus() == "here"
    assert ada.run("return document.getElementById('here').ariaExpanded") == "true"
    wait_until(lambda: ada.find("#members li") == ["ada you", "bob"], lambda: ada.show("#members"))
    bob.driver.get("about:blank")
    wait_until(lambda: ada.find("#members li") == ["ada you"], lambda: ada.show("#members"))
    ada.wait("#here", "1 here")
    ada.join("trade")
    ada.wait("#here", "1 here")
    assert ada.find("#members li") == ["ada you"]
    ada.run("document.getElementById('scroller').focus()")
    ada.press(Keys.TAB, *[Keys.TAB] * len(ada.find(".recall")))
    assert ada.focus() == "members"
    ada.press(Keys.ESCAPE)
    assert ada.find("#members") == []
    assert ada.focus() == "here"


def test_a_page_that_one_comes_back_to(
    start_daemon: StartDaemon, browsers: list[webdriver.Chrome]
) -> None:
    """Whoever has left it is not here, though the browser keeps it; nothing is missed."""
    ada, bob = people(start_daemon(), browsers)
    ada.wait("#here", "2 here")
    bob.driver.get(f"{bob.daemon.http}/openapi.json")
    ada.wait("#here", "1 here")
    ada.say("meanwhile")
    bob.driver.back()
    if bob.find("#me") == ["bob"]:  # a browser that keeps no pages asks for the password
        bob.wait_messages(["meanwhile"])
        ada.wait("#here", "2 here")
    else:
        assert bob.find("#sign-in h2") == ["Log in"]


def test_who_types(start_daemon: StartDaemon, browsers: list[webdriver.Chrome]) -> None:
    """It is shown until it is said; not to who types."""
    ada, bob = people(start_daemon(), browsers)
    bob.fill("words", "hel")
    ada.wait("#typing", "bob is typing…")
    assert bob.find("#typing") == [""]
    bob.say("lo")
    ada.wait_messages(["hello"])
    wait_until(lambda: ada.find("#typing") == [""], lambda: ada.show("#typing"))


def test_a_server_that_does_not_tell_who_is_here(
    start_daemon: StartDaemon, browsers: list[webdriver.Chrome]
) -> None:
    """The page says so; messages come and go as ever."""
    ada, bob = people(start_daemon(presence__enabled="false"), browsers)
    ada.click("#here")
    ada.wait("#members", "This server does not tell who is here.")
    bob.say("hello")
    ada.wait_messages(["hello"])
    assert ada.find("#here") == ["Who is here"]


def test_a_room_of_too_many(start_daemon: StartDaemon, browsers: list[webdriver.Chrome]) -> None:
    """Their number is told, and who they are when one looks."""
    daemon = start_daemon()
    ada, _ = people(daemon, browsers)
    ada.wait("#here", "2 here")
    ada.run(
        """
        const { parse } = JSON;
        JSON.parse = (text) => {
          const value = parse(text);
          if (value?.presence_stats) value.presence_stats.num_users = 4321;
          return value;
        };
        dispatchEvent(new Event("online"));
        """
    )
    ada.wait("#here", "4321 here")
    ada.click("#here")
    wait_until(lambda: ada.find("#members li") == ["ada you", "bob"], lambda: ada.show("#members"))


def test_what_is_read_stays_read(
    start_daemon: StartDaemon, browsers: list[webdriver.Chrome]
) -> None:
    """By the next login, too; what was said meanwhile is not."""
    daemon = start_daemon()
    tell(daemon, "trade", ["iron ore", "copper ore"], "ada")
    ada = Person(browsers[0], daemon, "ada")
    ada.log_in()
    ada.wait("#groups .unread", "2")
    ada.click("#groups button")
    ada.wait("#room-title", "trade")
    wait_until(lambda: ada.find("#groups .unread") == [], lambda: ada.show("#groups"))
    tell(daemon, "trade", ["tin"])
    ada.wait("#groups button", "tin")
    assert ada.find("#groups .unread") == []
    ada.click("#sign-out")
    tell(daemon, "trade", ["lead"])
    ada.run("location.hash = ''")
    ada.log_in()
    ada.wait("#groups button", "lead")
    wait_until(lambda: ada.find("#groups .unread") == ["1"], lambda: ada.show("#groups"))


def test_messages_that_were_left_out(
    start_daemon: StartDaemon, browsers: list[webdriver.Chrome], redis: Redis
) -> None:
    """A room over its budget says how many, between those that came."""
    daemon = start_daemon(room__max_deliveries_per_second="20")
    now = int(time.time() * 1000) - 1000
    before = [message(now + n, group="guild", user="bob", info=f"before {n}") for n in range(40)]
    redis.rpush("gml:guild", *before)
    ada = Person(browsers[0], daemon, "ada")
    ada.enter("guild")
    ada.wait_message("before 39")
    with RawClient(daemon.address, "/group/chat/guild/crier/t") as crier:
        for number in range(200):
            crier.say(f"number {number}")
        wait_until(lambda: redis.llen("gml:guild") == 240, lambda: "not stored")
    ada.wait(".gap", "messages were left out")

    def counted() -> int:
        notes = ada.run("return [...document.querySelectorAll('.gap')].map((e) => e.textContent)")
        return len(ada.messages()) + sum(int(note.split()[0]) for note in notes)

    wait_until(lambda: counted() == 240, lambda: f"{counted()} of 240")


class _NoSockets(BaseHTTPRequestHandler):
    """A server of before, or one behind a proxy that knows HTTP alone: it only lets one log in."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(json.dumps({"code": 200, "msg": "t" * 32, "data": "user_info"}).encode())

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_server_without_the_live_wire(
    start_daemon: StartDaemon, browsers: list[webdriver.Chrome]
) -> None:
    """The page names what is missing."""
    ada = Person(browsers[0], start_daemon(), "ada")
    with ThreadingHTTPServer(("127.0.0.1", 0), _NoSockets) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            ada.fill("sign-in-server", f"http://127.0.0.1:{server.server_port}")
            ada.log_in()
            ada.wait("#chat-status", "opens no WebSocket at /connection/websocket")
        finally:
            server.shutdown()
