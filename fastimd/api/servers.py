"""The API on all addresses of the daemon, which end together."""

from __future__ import annotations

from collections.abc import Callable

from ..base.metrics import Metrics
from ..base.settings import Config
from ..door.head import Head
from .calls import Calls
from .document import describe_api
from .server import ApiServer, is_api


class ApiServers:
    """Makes one for each address."""

    def __init__(self, calls: Calls, config: Config, metrics: Metrics) -> None:
        self._calls = calls
        self._config = config
        self._metrics = metrics
        self._made: list[ApiServer] = []

    def make(
        self, trusts: Callable[[Head], bool], serves: Callable[[Head], bool] = is_api
    ) -> ApiServer:
        """One more; ``trusts`` and ``serves`` as for ``ApiServer``."""
        made = ApiServer(self._calls, self._config, self._metrics, describe_api, trusts, serves)
        self._made.append(made)
        return made

    def end(self) -> None:
        """From now on each answer is the last of its connection."""
        for each in self._made:
            each.is_ending = True

    async def wait_answered(self) -> None:
        """Wait until every request that came has its answer."""
        for each in self._made:
            await each.wait_answered()
