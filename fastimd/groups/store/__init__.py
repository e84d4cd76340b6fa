"""The domain over Redis: messages, history, membership, logins. It alone knows the keys.

Everything raises ``StoreUnavailable`` when Redis is away, and ``KeyUnusable`` when Redis refuses
what concerns the key of one group or one user, or that of the kicks: it has another type, or must
not be touched.
"""

from __future__ import annotations

from ...base.metrics import Metrics
from ...base.settings import Config
from ...redis.clients import RedisClient
from .announcing import Announcing
from .history import History
from .keyspace import Keyspace
from .kicks import RememberedKicks
from .ledgers import Ledgers
from .logins import Logins
from .marks import Marks
from .members import Members
from .messages import Messages
from .policy import Policies
from .presence import Presences
from .queues import Queues
from .removals import Removals
from .reports import Reports
from .stand import Stands
from .summaries import Summaries


class Store:
    """All that fastimd keeps in Redis, by what it is about."""

    def __init__(self, client: RedisClient, config: Config, metrics: Metrics) -> None:
        keys = Keyspace(client, metrics)
        self.messages = Messages(keys, client, config)
        self.history = History(keys, client, config)
        self.summaries = Summaries(keys, client)
        self.stands = Stands(keys, client, config)
        self.members = Members(keys, client, config)
        self.marks = Marks(keys, config)
        self.logins = Logins(keys, client, config)
        self.kicks = RememberedKicks(keys, config)
        self.presences = Presences(keys)
        self.policies = Policies(keys, client)
        self.removals = Removals(keys, config)
        self.reports = Reports(keys)
        self.ledgers = Ledgers(keys)
        self.announcing = Announcing(keys)
        self.queues = Queues(keys, config)
