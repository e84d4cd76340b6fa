"""All sections together, and every setting as data for those that read, compare or show them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from .admin import Admin
from .api import Api
from .group import Group
from .group_list import GroupList
from .group_message import GroupMessage
from .hooks import Hooks
from .live import Live
from .log import Log
from .login import Login
from .presence import Presence
from .redis import Redis
from .room import Room
from .section import About, Section, about, accepted
from .server import Server
from .socket import Socket
from .token import Token

BUILT_IN = "built-in defaults"
"""``Config.source`` when no file was found."""


class Config(msgspec.Struct):
    """Every setting, and the file they came from (an absolute path, or ``BUILT_IN``).

    Its sections are replaced while the daemon runs (``adopt``): whoever works by a setting asks for
    it each time.
    """

    server: Server = Server()
    redis: Redis = Redis()
    group: Group = Group()
    group_message: GroupMessage = GroupMessage()
    group_list: GroupList = GroupList()
    socket: Socket = Socket()
    live: Live = Live()
    room: Room = Room()
    presence: Presence = Presence()
    login: Login = Login()
    token: Token = Token()
    hooks: Hooks = Hooks()
    api: Api = Api()
    admin: Admin = Admin()
    log: Log = Log()
    source: str = BUILT_IN


class Setting(NamedTuple):
    """One key as data. ``description`` says what is accepted, with its unit."""

    section: str
    key: str
    default: Any
    description: str
    type: Any
    about: About

    @property
    def name(self) -> str:
        """``section.key``."""
        return f"{self.section}.{self.key}"


SECTIONS: dict[str, type[Section]] = {
    section.name: section.type
    for section in msgspec.structs.fields(Config)
    if section.name != "source"
}


def settings() -> Iterator[Setting]:
    """Every setting, in the order of the documentation."""
    for section, struct in SECTIONS.items():
        for field in msgspec.structs.fields(struct):
            yield Setting(
                section, field.name, field.default, accepted(field), field.type, about(field)
            )


SETTINGS = {
    section: {setting.key: setting for setting in group}
    for section, group in itertools.groupby(settings(), key=lambda setting: setting.section)
}
"""The same, by section and key."""
