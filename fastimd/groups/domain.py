"""What every dialect speaks of: the store, who may do what, and who hears it."""

from __future__ import annotations

from dataclasses import dataclass

from ..base.metrics import Metrics
from ..base.settings import Config
from ..hooks.runner import HookRunner
from ..hooks.visits import Visits
from .access import Access
from .hub import Hub
from .lists.poller import Poller
from .moderation.acts import Moderation
from .moderation.announcer import Announcer
from .moderation.judge import Judge
from .presence.presence import Presence
from .store import Store


@dataclass(slots=True)
class Domain:
    """The daemon's one of each."""

    config: Config
    metrics: Metrics
    store: Store
    access: Access
    hooks: HookRunner
    visits: Visits
    hub: Hub
    poller: Poller
    presence: Presence
    judge: Judge
    moderation: Moderation
    announcer: Announcer
