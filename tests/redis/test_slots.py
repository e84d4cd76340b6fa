"""Where a cluster keeps keys, and what is made to lie beside them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from fastimd.redis.cluster.slots import SLOTS, slot_of, tag_of

KEYS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("{}"), max_size=12)


@given(KEYS)
@example("gml:{}")
@example("gml:{}{a}")
@example("gml:{a")
@example("gml:}{a}")
@example("gml:{{a}}")
@example("gml:a{b}c{d}")
def test_a_slot_is_that_of_every_client(key: str) -> None:
    """As redis-py has it, text or bytes."""
    assert slot_of(key) == slot_of(key.encode()) == key_slot(key.encode())


def test_every_slot_has_a_tag() -> None:
    """Short, and of its own."""
    tags = [tag_of(slot) for slot in range(SLOTS)]
    assert [key_slot(tag.encode()) for tag in tags] == list(range(SLOTS))
    assert len(set(tags)) == SLOTS
    assert max(map(len, tags)) <= 6


@given(KEYS, KEYS)
def test_a_tag_brings_any_key_into_a_slot(key: str, beside: str) -> None:
    """Whatever braces stand in either."""
    slot = slot_of(f"gml:{key}")
    assert key_slot(f"{tag_of(slot)}fastimd:floor:{beside}".encode()) == slot


def test_an_id_may_be_any_text() -> None:
    """A lone surrogate is no text of a client, and harms nothing."""
    assert 0 <= slot_of("gml:\ud800") < SLOTS
    with pytest.raises(IndexError):
        tag_of(SLOTS)
