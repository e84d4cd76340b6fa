"""fastimd.toml and docs/SETTINGS.md, written from the sections: ``make settings``.

The words come from the sections. They are plain text, in which names and values stand as in a
sentence; the table puts those into backquotes.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from .config import SECTIONS, SETTINGS, Setting
from .section import AFTER_RESTART, FOR_NEW_SOCKETS

EXAMPLE = Path("fastimd.toml")
TABLE = Path("docs/SETTINGS.md")

_EXAMPLE_HEAD = """\
# Settings of fastimd. Every key is listed here, commented out, with its built-in default. To change
# a key, remove the "# " in front of it.
#
# fastimd reads ./fastimd.toml, else /etc/fastimd/fastimd.toml, unless `fastimd --config PATH` names
# another file. Environment variables override keys: FASTIMD_SERVER__BIND=0.0.0.0:9000,
# FASTIMD_GROUP_LIST__UPDATE_RATE=0.5 (lists: separated by commas). `fastimd check` reads everything
# as the daemon would and prints every mistake. A running daemon rereads the file on SIGHUP
# (`systemctl reload fastimd`).
"""
_TABLE_HEAD = """\
<!-- Written by `make settings` from fastimd/base/settings/; change it there. -->

# Settings

English · [简体中文](SETTINGS.zh-CN.md)

Every key, by section. [OPERATION.md](OPERATION.md#settings) says where settings come from;
[fastimd.toml](../fastimd.toml) is the same as a file to start from. A running daemon rereads its
file on SIGHUP (`systemctl reload fastimd`); the last column says
[when a change takes effect](OPERATION.md#changing-settings-while-it-runs).
"""
_WIDTH = 98  # of a comment's text
_NOTES = {
    AFTER_RESTART: "A change needs a restart.",
    FOR_NEW_SOCKETS: "A change applies to new sockets.",
}
# What is a name or a value: quoted already, of the environment, a path, a scheme, a key.
_CODE = re.compile(
    r'`[^`]*`|"[^"]*"|\$\w+[\w/]*|~/[\w./]*\w|[\w-]+://|\b[a-z_]+\.[a-z_]+\b|\b[a-z]+(?:_[a-z]+)+\b'
)


def as_toml(value: Any) -> str:
    """A default as it stands in the file."""
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _accepted(setting: Setting) -> str:
    fractions = "; fractions are fine" if isinstance(setting.default, float) else ""
    return f"{setting.description}{fractions}"


def _comment(text: str) -> str:
    joined = re.sub("`[^`]*`", lambda match: match[0].replace(" ", "\0"), text)  # one word each
    filled = textwrap.fill(joined, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return textwrap.indent(filled.replace("\0", " "), "# ")


def _example(text: str) -> str:
    return f"# Instead, for example:\n{textwrap.indent(text, '#     ')}" if text else ""


def render_example() -> str:
    """fastimd.toml: every key, explained, with its default, which a comment keeps as it is."""
    parts = [_EXAMPLE_HEAD]
    for section, struct in SECTIONS.items():
        settings = SETTINGS[section].values()
        # What is so for a whole section is said once, at its head.
        shared = {setting.about.holds for setting in settings}
        note = _NOTES.get(shared.pop(), "") if len(shared) == 1 else ""
        parts.append(f"[{section}]\n{_comment(f'{struct.__doc__} {note}')}\n")
        for setting in settings:
            own = "" if note else _NOTES.get(setting.about.holds, "")
            parts.append(
                f"{_comment(f'{setting.about.does} {own}')}\n"
                f"{_comment(f'Accepted: {_accepted(setting)}.')}\n"
                f"# {setting.key} = {as_toml(setting.default)}\n"
                f"{_example(setting.about.example)}"
            )
    return "\n".join(parts)


def _markdown(text: str) -> str:
    text = _CODE.sub(lambda match: f"`{match[0].strip('`')}`", text)
    return re.sub(r"docs/(\w+\.md)", r"[docs/\1](\1)", text)


def render_table() -> str:
    """docs/SETTINGS.md: a table for each section."""
    parts = [_TABLE_HEAD]
    for section, struct in SECTIONS.items():
        rows = "".join(
            f"| `{setting.name}` | `{as_toml(setting.default)}` | {_markdown(setting.about.does)}"
            f" | {_markdown(_accepted(setting))} | {setting.about.holds} |\n"
            for setting in SETTINGS[section].values()
        )
        parts.append(
            f"## {section}\n\n{_markdown(struct.__doc__ or '')}\n\n"
            "| key | default | meaning | accepted | takes effect |\n"
            f"|---|---|---|---|---|\n{rows}"
        )
    return "\n".join(parts)


def main() -> None:
    """Write both files, in the checkout that is the current directory."""
    EXAMPLE.write_text(render_example(), encoding="utf-8")
    TABLE.write_text(render_table(), encoding="utf-8")


if __name__ == "__main__":
    main()
