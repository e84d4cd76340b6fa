"""What a section is made of: fields that say all that there is to say of a setting.

A setting is declared once, as a field of its section. Its default is the built-in one. Its type
refuses bad values, and the description of ``Meta`` is what an operator reads as accepted. ``About``
has the rest: what the setting does, in the words of fastimd.toml and docs/SETTINGS.md, when a
change of it holds, a check that a type cannot express, and whether it may hold a password.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

AT_ONCE, FOR_NEW_SOCKETS, AFTER_RESTART = "at once", "for new sockets", "after a restart"
"""When a change in the file holds, for a daemon that SIGHUP tells to read it again."""

CENTURY = 3_153_600_000  # seconds; EXPIRE refuses lives that overflow its clock


def _pass(value: object) -> None:
    """Check nothing beyond the type."""


class About(NamedTuple):
    """What a setting does, and how it is treated.

    ``check`` raises ValueError for a value, or for an item of a list, that is refused. A setting
    that ``is_secret`` is shown in no report and no ``repr``. ``example`` is how it is written
    where its default does not show that.
    """

    does: str
    check: Callable[[Any], object] = _pass
    holds: str = AT_ONCE
    is_secret: bool = False
    example: str = ""


class Section(msgspec.Struct, frozen=True):
    """A section of the file; its docstring stands at its head there."""

    def __repr__(self) -> str:
        shown = [
            f"{field.name}=<not shown>"
            if about(field).is_secret
            else f"{field.name}={getattr(self, field.name)!r}"
            for field in msgspec.structs.fields(self)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def about(field: msgspec.structs.FieldInfo) -> About:
    """The ``About`` of a setting's field."""
    [found] = [each for each in field.type.__metadata__ if isinstance(each, About)]
    return found


def accepted(field: msgspec.structs.FieldInfo) -> str:
    """The values that a setting's field accepts, in words."""
    [found] = [each.description for each in field.type.__metadata__ if isinstance(each, Meta)]
    return found or ""


Switch = Annotated[bool, Meta(description="true or false")]
Life = Annotated[
    int, Meta(ge=1, le=CENTURY, description="whole seconds, from 1 to 3153600000 (100 years)")
]
Period = Annotated[
    float, Meta(gt=0, le=86_400, description="seconds, more than 0, at most 86400 (a day)")
]
Count = Annotated[
    int, Meta(ge=0, le=2**32 - 1, description="a whole number, from 0 (no limit) to 4294967295")
]
