"""Follows the master that sentinels name, when it is another one and no connection has broken.

That is so after a fail-over by hand, or when the old master stood still or was cut off. Other
daemons hear of it within a moment; until then they speak to the old one. So nobody speaks to the
new one at once: what was said to the old one is heard out first, by everybody, and its ``ts`` come
before those of the new one.
"""

from __future__ import annotations

import structlog
import trio

from ..redis.client import Client
from ..redis.sentinel import NoMaster, Service
from .relay import Relay

LOOK_SECONDS = 0.5
"""How often the sentinels are asked."""
LEAVE_SECONDS = 1.0
"""How long the old master is still listened to; in it every daemon has asked again."""

log = structlog.get_logger("fastimd.redis")


async def follow_master(service: Service, client: Client, relay: Relay) -> None:
    """Lead both connections to the master, until cancelled."""
    try:
        while True:
            await trio.sleep(LOOK_SECONDS)
            try:
                master = await service.find()
            except NoMaster:
                continue  # the service has said why; the connections may be good all the same
            if client.is_beside(master.reign) or relay.is_beside(master.reign):
                log.warning("redis.moved", service=service.name, address=str(master))
                if client.is_beside(master.reign):
                    await client.leave(LEAVE_SECONDS)
                if relay.is_beside(master.reign):
                    relay.reconnect()
    finally:
        service.close()
