"""The groups of the daemon: who hears what Redis publishes, and what is counted of it."""

from __future__ import annotations

from functools import partial

from ..base.metrics import Metrics
from ..base.settings import Config
from ..groups.announcements import Announcements
from ..groups.events import Events
from ..groups.hub import Hub
from ..groups.kicks import Kicks
from ..groups.lists.poller import Poller
from ..groups.moderation.announcer import Announcer
from ..groups.moderation.policies import Policies
from ..groups.presence.presence import Presence
from ..groups.relays import GroupRelay, make_relay
from ..groups.store import Store
from ..groups.surveys import ANSWER_BEGINS, Surveys
from ..redis.clients import RedisClient
from ..websocket.session import Sessions
from .gauges import add_gauges


def build_hub(
    client: RedisClient,
    store: Store,
    config: Config,
    metrics: Metrics,
    kicks: Kicks,
    sessions: Sessions,
    presence: Presence,
    policies: Policies,
    surveys: Surveys,
) -> tuple[GroupRelay, Hub, Poller, Announcer]:
    """Make what the groups need, and tie it together."""
    relay = make_relay(client, store.history, metrics)
    client.appender.heard, client.appender.hear_out = relay.newest_of, relay.hear_out
    hub = Hub(relay, store.history, metrics, config, policies)
    poller = Poller(relay, store, metrics, config)
    announcer = Announcer(
        policies, store.policies, store.members, partial(_users_of, sessions), hub.notice
    )

    def on_gap() -> None:
        poller.sweep()
        kicks.look()
        presence.note_gap()

    events = Events(
        on_change=poller.note_event,
        on_removal=hub.notice,
        on_leave=sessions.leave,
        on_kick=kicks.receive,
        on_policy=announcer.receive,
        on_question=surveys.receive_question,
    )

    def on_letter(payload: bytes) -> None:
        is_answer = payload.startswith(ANSWER_BEGINS)
        (surveys.receive_answer if is_answer else presence.receive)(payload)

    announcements = Announcements(
        store.presences.inbox,
        on_event=events.receive,
        on_letter=on_letter,
        on_gap=on_gap,
    )
    relay.hand_to(on_batch=hub.flush, announcements=announcements)
    add_gauges(metrics, client, store, relay, hub, presence)
    return relay, hub, poller, announcer


def _users_of(sessions: Sessions, groups: set[str]) -> dict[str, set[str]]:
    """The users with sockets in each of some groups."""
    users: dict[str, set[str]] = {}
    for session in sessions:
        for group in groups.intersection(session.groups):
            users.setdefault(group, set()).add(session.user)
    return users
