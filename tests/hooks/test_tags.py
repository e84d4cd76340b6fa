"""What may be a tag that an ``on_message`` hook gives a message."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from fastimd.base.codec import decode_message, message_prefix, read_entry
from fastimd.base.errors import HookFailed
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config, Hooks
from fastimd.hooks import MOST_TAGS, TAGS_BYTES, Message
from fastimd.hooks.runner import HookRunner


async def judged(tags: Any, policy: str = "refuse") -> Message:
    """What becomes of a message to which a hook has given tags."""

    async def on_message(message: Message) -> Message:
        return Message(message.group_id, message.user_id, message.info, tags)

    config = Config(hooks=Hooks(message_on_failure=cast(Any, policy)))
    return await HookRunner({"on_message": on_message}, config, Metrics()).judge_message(
        Message("1", "2", "said")
    )


BAD: list[tuple[Any, str]] = [
    (None, "returned tags that are a NoneType, not a dict"),
    ("secret", "returned tags that are a str, not a dict"),
    ([("secret", "x")], "returned tags that are a list, not a dict"),
    ({"secret": 1}, "returned tags with a int, not only text"),
    ({"secret": None}, "returned tags with a NoneType, not only text"),
    ({b"secret": "x"}, "returned tags with a bytes, not only text"),
    ({"": "secret"}, "returned a tag without a name"),
    ({"event": "secret"}, "returned a tag event, which is fastimd's own"),
    ({str(n): "secret" for n in range(MOST_TAGS + 1)}, "returned 17 tags, more than 16"),
    ({"secret": "字" * 340}, "returned tags of 1026 bytes, more than 1024"),
    ({"x" * TAGS_BYTES: "x"}, "returned tags of 1025 bytes, more than 1024"),
    ({"secret": "\ud800"}, "returned a tag that UTF-8 cannot say"),
    ({"\udfff": "secret"}, "returned a tag that UTF-8 cannot say"),
]


@pytest.mark.parametrize(("tags", "error"), BAD)
async def test_what_is_no_tag_is_a_failure(tags: Any, error: str) -> None:
    """That says what is wrong and shows nothing of it; or the message is stored without tags."""
    with pytest.raises(HookFailed) as failed:
        await judged(tags)
    assert str(failed.value) == error
    assert await judged(tags, "allow") == Message("1", "2", "said")


GOOD: list[Any] = [
    {},
    MappingProxyType({"a": "b"}),
    {"priority": "high", "Event": "x", "events": ""},
    {str(n): "" for n in range(MOST_TAGS)},
    {"x": "y" * (TAGS_BYTES - 1)},
]


@pytest.mark.parametrize("tags", GOOD)
async def test_what_may_be_a_tag(tags: Any) -> None:
    """Up to both limits."""
    assert (await judged(tags)).tags == dict(tags)


async def test_a_hook_that_keeps_its_tags_changes_nothing_later() -> None:
    """What is stored is a copy."""
    tags = {"a": "b"}
    message = await judged(tags)
    tags["a"] = "c"
    assert message.tags == {"a": "b"}


async def test_tags_of_a_hook_that_fails_are_none(autojump_clock: MockClock) -> None:
    """Though it had set them already."""

    async def on_message(message: Message) -> Message:
        cast(dict[str, str], message.tags)["event"] = "recall"
        raise ValueError

    config = Config(hooks=Hooks(message_on_failure="allow"))
    hooks = HookRunner({"on_message": on_message}, config, Metrics())
    assert (await hooks.judge_message(Message("1", "2", "said"))).tags == {}


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


@given(st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=4), TEXTS)
@settings(max_examples=200, deadline=None)
def test_tags_never_hide_a_message(tags: dict[str, str], info: str) -> None:
    """Whatever they say, ``ts`` stands last, and all of it is read back."""
    entry = message_prefix("1", "2", info, tags) + b"17}"
    assert read_entry(entry) == (17, entry)
    read = decode_message(entry)
    assert (read.info, dict(read.tags), read.ts) == (info, tags, 17)
    assert list(json.loads(entry)) == ["groupId", "userId", "info", "tags", "ts"]
