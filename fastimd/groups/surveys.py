"""Questions to all daemons: each answers into the inbox of the one that asks.

What only daemons know, such as which groups have members now, is asked when it is wanted, and
stands nowhere.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import structlog
import trio

from ..base.codec import read_json
from ..base.errors import StoreUnavailable
from .events import SURVEY
from .store.announcing import Announcing

ANSWER_SECONDS = 3.0
"""How long is waited for the answers of other daemons."""
MOST_WAITING = 64
"""How many questions of others may wait to be answered."""
ANSWER_BEGINS = b'{"survey":'

log = structlog.get_logger("fastimd.survey")


class Question(msgspec.Struct):
    """What is asked of all daemons; ``kind`` is ``SURVEY``, which tells it from other events."""

    group: str
    user: str
    kind: str
    survey: str
    inbox: str
    what: str
    about: str


class _Answer(msgspec.Struct):
    survey: str
    daemon: str
    data: msgspec.Raw


class Found(NamedTuple):
    """The answers by daemon, as JSON, and how many daemons have given none."""

    answers: dict[str, msgspec.Raw]
    missing: int


class _Asked:
    def __init__(self) -> None:
        self.answers: dict[str, msgspec.Raw] = {}
        self.expected = math.inf
        self.is_complete = trio.Event()

    def look(self) -> None:
        if len(self.answers) >= self.expected:
            self.is_complete.set()


class Surveys:
    """Asks all daemons, this one too, and answers others.

    Args:
        daemon: the id of this one.
        inbox: its channel.
    """

    def __init__(self, announcing: Announcing, daemon: str, inbox: str) -> None:
        self._announcing = announcing
        self._daemon = daemon
        self._inbox = inbox
        self._asked: dict[str, _Asked] = {}
        self._waiting, self._questions = trio.open_memory_channel[Question](MOST_WAITING)
        self.answerers: Mapping[str, Callable[[str], Any]] = {}
        """What this daemon says of each thing that may be asked, from what it is asked about."""

    async def ask(self, what: str, about: str = "") -> Found:
        """Ask all daemons something.

        Raises:
            StoreUnavailable, KeyUnusable: they cannot be asked.
        """
        name = secrets.token_hex(8)
        asked = self._asked[name] = _Asked()
        question = Question("", "", SURVEY, name, self._inbox, what, about)
        try:
            with trio.move_on_after(ANSWER_SECONDS):
                asked.expected = await self._announcing.announce(msgspec.json.encode(question))
                asked.look()
                await asked.is_complete.wait()
        finally:
            del self._asked[name]
        if asked.expected == math.inf:
            raise StoreUnavailable("Redis has not answered in time")
        missing = max(0, int(asked.expected) - len(asked.answers))
        if missing:
            log.warning("survey.incomplete", what=what, daemons=asked.expected, missing=missing)
        return Found(asked.answers, missing)

    def receive_question(self, payload: bytes) -> None:
        """Take a question that came for all daemons.

        Raises:
            ValueError: it is none.
        """
        question = read_json(payload, Question)
        if question.what in self.answerers:  # else it is of a newer daemon
            try:
                self._waiting.send_nowait(question)
            except trio.WouldBlock:
                log.warning("survey.not_answered", what=question.what)

    def receive_answer(self, payload: bytes) -> None:
        """Take an answer that came for this daemon; it may be late."""
        try:
            answer = read_json(payload, _Answer)
        except ValueError as exc:
            log.warning("survey.unknown_answer", error=str(exc))
            return
        asked = self._asked.get(answer.survey)
        if asked is not None:
            asked.answers[answer.daemon] = answer.data
            asked.look()

    async def run(self) -> None:
        """Answer what others ask, until cancelled."""
        async for question in self._questions:
            data = msgspec.Raw(msgspec.json.encode(self.answerers[question.what](question.about)))
            answer = _Answer(question.survey, self._daemon, data)
            await self._announcing.tell(question.inbox, msgspec.json.encode(answer))
