"""What all connections of one encoding work with."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..groups.domain import Domain
from ..websocket.replies import Replies
from ..websocket.session import Surroundings
from ..websocket.subprotocol import Subprotocol
from ..websocket.timers import Timers
from .dialect import Live
from .tokens import Tokens
from .wire import Wire, subprotocol


@dataclass
class Service:
    """The daemon, as a connection of one encoding sees it."""

    around: Surroundings
    domain: Domain
    tokens: Tokens
    timers: Timers
    replies: Replies
    wire: Wire
    dialect: Live = field(init=False)
    subprotocol: Subprotocol = field(init=False)

    def __post_init__(self) -> None:
        self.dialect = Live(self.domain.store.stands, self.wire)
        self.subprotocol = subprotocol(self.wire)
