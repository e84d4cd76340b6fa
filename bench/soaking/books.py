"""What the people of a soak write down, for the judge."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .counts import Spoken, Stretch, read_text

USUAL_CLOSES = frozenset((1001, 1012, 1013, 3001, 3008))
"""What a client may be closed with while servers are harmed: it comes back."""


@dataclass
class Books:
    """Of all groups.

    ``returns`` counts how clients came back to a group on the live wire, ``closes`` with which
    words daemons closed; ``surprises`` are answers and closes that no harm explains.
    """

    spoken: Mapping[str, Spoken] = field(default_factory=lambda: defaultdict(Spoken))
    stretches: Mapping[str, list[Stretch]] = field(default_factory=lambda: defaultdict(list))
    returns: Counter[str] = field(default_factory=Counter)
    closes: Counter[str] = field(default_factory=Counter)
    surprises: Counter[str] = field(default_factory=Counter)

    def note_close(self, code: int, reason: str) -> None:
        """A daemon has closed a connection."""
        word = f"close {code} {reason if not reason.startswith('restart') else 'restart N'}".strip()
        self.closes[word] += 1
        if code not in USUAL_CLOSES:
            self.surprises[word] += 1

    def hear(self, stretch: Stretch, ts: int, text: str) -> int:
        """A member has heard a message; returns its id, or 0 if it is nobody's."""
        try:
            message = read_text(text)
        except ValueError:
            self.surprises[f"heard {text[:60]!r}"] += 1
            return 0
        stretch.hear(ts, message)
        return message

    @property
    def said(self) -> int:
        """How many messages were acknowledged so far."""
        return sum(len(spoken.acknowledged) for spoken in self.spoken.values())

    @property
    def heard(self) -> int:
        """How many were heard so far."""
        return sum(len(stretch.ts) for stretch in self._stretches())

    def _stretches(self) -> Iterator[Stretch]:
        for stretches in self.stretches.values():
            yield from stretches
