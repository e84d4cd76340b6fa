"""Reports, and a moderator's acts, on the test page: in real browsers on real daemons."""

from __future__ import annotations

import pytest
from browser import complaints, wait_until
from conftest import Daemon, StartDaemon, run_fastimd
from page_people import Person, tell
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("leaving")]


@pytest.fixture
def people(start_daemon: StartDaemon, browsers: list[webdriver.Chrome]) -> tuple[Person, Person]:
    """Ada, who is a moderator, and Bob, who has said something."""
    daemon = start_daemon()
    appoint(daemon, "ada")
    ada, bob = (Person(b, daemon, u) for b, u in zip(browsers, ("ada", "bob"), strict=True))
    for person in (ada, bob):
        person.enter("guild")
    bob.say("buy gold")
    ada.wait_messages(["buy gold"])
    return ada, bob


def appoint(daemon: Daemon, user: str) -> None:
    """An operator makes somebody a moderator."""
    bind = daemon.admin.removeprefix("http://")
    done = run_fastimd("moderator", "guild", "--add", user, admin__bind=bind)
    assert done.returncode == 0, done.stderr


def about(person: Person, text: str) -> None:
    """Open what can be done about a message."""
    name = f"Report or moderate: {text}"
    person.run("document.querySelector(`[aria-label='${arguments[0]}']`).click()", name)
    person.wait("#act", text)


def do(person: Person, button: str) -> None:
    """Press a button of the dialog."""
    found = person.driver.find_elements(By.CSS_SELECTOR, "#act button")
    [named] = [each for each in found if each.text == button]
    named.click()


def test_a_member_reports_and_a_moderator_handles(people: tuple[Person, Person]) -> None:
    """The report names who, whom and why; the message is deleted for everybody."""
    ada, bob = people
    tell(ada.daemon, "guild", ["spam"], "eve")
    bob.wait_message("spam")
    assert bob.find("#moderate") == []
    about(bob, "spam")
    assert "Mute" not in bob.find("#act button")
    do(bob, "Report to the moderators")
    bob.wait("#act .failure", "Say why.")
    bob.fill("act-reason", "sells gold")
    do(bob, "Report to the moderators")
    bob.wait("#room-notice", "Done: Report to the moderators, eve.")
    ada.click("#moderate")
    ada.wait("#act .reports", "bob about eve: sells gold")
    do(ada, "Handle")
    ada.wait("#act h2", "eve")
    do(ada, "Delete this message")
    for person in people:
        person.wait_messages(["buy gold"])
    ada.click("#moderate")
    ada.wait("#act .reports", "No reports.")
    ada.press(Keys.ESCAPE)
    assert ada.find("#act") == []


def test_a_moderator_mutes_and_unmutes(people: tuple[Person, Person]) -> None:
    """The muted is told until when and why, and may speak again when it is lifted."""
    ada, bob = people
    about(ada, "buy gold")
    ada.fill("act-reason", "no trade here")
    do(ada, "Mute")
    ada.wait("#room-notice", "Done: Mute, bob.")
    bob.wait("#room-notice", "You are muted until")
    bob.wait("#room-notice", "no trade here")
    bob.say("but why")
    bob.wait(".drafts [role=alert]", "Refused: muted until")
    about(ada, "buy gold")
    do(ada, "Unmute")
    bob.wait("#room-notice", "You are no longer muted.")
    bob.say("thank you")
    ada.wait_messages(["buy gold", "thank you"])


def test_a_moderator_bans(people: tuple[Person, Person]) -> None:
    """The banned is put out and told why; all messages of the user go."""
    ada, bob = people
    ada.click("#here")
    ada.wait("#members", "bob")
    ada.click("[aria-label='bob: moderate']")
    ada.wait("#act h2", "bob")
    do(ada, "Delete all messages of this user")
    for person in people:
        person.wait_messages([])
    ada.click("[aria-label='bob: moderate']")
    ada.fill("act-reason", "enough")
    do(ada, "Ban")
    bob.wait("#chat-status", "banned until")
    bob.wait("#chat-status", "enough")
    wait_until(lambda: "bob" not in str(ada.find("#members li")), lambda: ada.show("#members"))
    ada.click("#moderate")
    ada.fill("act-user", "bob")
    do(ada, "Choose")
    do(ada, "Unban")
    ada.wait("#room-notice", "Done: Unban, bob.")
    bob.click("#reconnect")
    bob.wait("#chat-status", "Connected")


def test_a_moderator_slows_and_silences_a_room(people: tuple[Person, Person]) -> None:
    """Everybody is told; the refused text waits for the one who said it."""
    ada, bob = people
    ada.click("#moderate")
    ada.fill("act-slow", "600")
    do(ada, "Set")
    bob.wait("#room-notice", "Slow mode: one message every 600 s.")
    bob.say("one")
    ada.wait_messages(["buy gold", "one"])
    bob.say("two")
    bob.wait(".drafts [role=alert]", "Not sent: wait")
    assert bob.find(".drafts button") == ["Send again", "Discard"]
    ada.click("#moderate")
    do(ada, "Set")
    bob.wait("#room-notice", "Slow mode is off.")
    bob.click(".drafts button")
    ada.wait_messages(["buy gold", "one", "two"])
    ada.click("#moderate")
    do(ada, "Only moderators may write")
    bob.wait("#room-notice", "Only moderators may write now.")
    bob.say("three")
    bob.wait(".drafts [role=alert]", "Refused: only moderators may write now")
    ada.click("#moderate")
    do(ada, "Everyone may write")
    bob.wait("#room-notice", "Everyone may write again.")


def test_what_is_refused_is_told(people: tuple[Person, Person]) -> None:
    """A moderator cannot act against another one; the dialog says so, and stays."""
    ada, bob = people
    appoint(ada.daemon, "bob")
    bob.wait("#room-notice", "You are a moderator of this group now.")
    bob.wait("#moderate", "Moderate")
    about(ada, "buy gold")
    do(ada, "Mute")
    ada.wait("#act .failure", "Not done: this user is a moderator")
    do(ada, "Close")
    assert complaints(ada.driver) == []
