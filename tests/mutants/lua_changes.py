"""What is changed in a Lua script, token by token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from .mutant import Mutant, make_mutant

TOKEN = re.compile(
    rb"""
    (?P<comment> --[^\n]* )
    | (?P<text> "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' )
    | (?P<number> \d+ (?: \.\d+ )? )
    | (?P<argument> (?: KEYS | ARGV )\[ \d+ \] )  # which one it is, every test sees
    | (?P<name> [A-Za-z_]\w* (?: [.:][A-Za-z_]\w* )* )
    | (?P<sign> == | ~= | <= | >= | \.\.\.? | [-+*/%^\#<>=(){}\[\];,:.] )
    """,
    re.VERBOSE,
)
OTHERS = {
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "==": ("~=",),
    "~=": ("==",),
    "and": ("or",),
    "or": ("and",),
    "not": ("",),
}
SWAPPED = {"+": "-", "-": "+"}
CONDITIONS = {"if": "then", "elseif": "then", "while": "do"}
OPERATORS = set("+-*/%^#<>=(,{[;") | {"==", "~=", "<=", ">=", ".."}
KEYWORDS = {"and", "or", "not", "if", "elseif", "while", "return", "then", "do", "else", "in"}
"""Behind these and the operators a minus belongs to the number after it."""

BEGINNINGS = KEYWORDS | {"local", "function", "for", "end"}


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


def lua_mutants(file: str, source: bytes) -> list[Mutant]:
    """All changes of a script, in order."""
    tokens = [
        _Token(str(match.lastgroup), match[0].decode(), match.start(), match.end())
        for match in TOKEN.finditer(source)
        if match.lastgroup != "comment"
    ]
    changes = [*_token_changes(tokens), *_conditions(source, tokens), *_statements(source, tokens)]
    return [
        make_mutant(file, source, start, end, text, _scope(source, start))
        for start, end, text in sorted(changes)
    ]


def _scope(source: bytes, at: int) -> str:
    """The function around a place, "" for a script's own lines."""
    heads = list(re.finditer(rb"^local function (\w+)|^end$", source[:at], re.MULTILINE))
    return heads[-1][1].decode() if heads and heads[-1][1] else ""


def _token_changes(tokens: list[_Token]) -> Iterator[tuple[int, int, str]]:
    for last, token in zip([_Token("", "", 0, 0), *tokens], tokens, strict=False):
        if token.kind == "number":
            yield token.start, token.end, str(int(token.text) + 1)
        elif token.kind in ("sign", "name"):
            for other in OTHERS.get(token.text, ()):
                yield token.start, token.end, other
            is_binary = last.text not in OPERATORS and last.text not in KEYWORDS
            if token.text in SWAPPED and is_binary:
                yield token.start, token.end, SWAPPED[token.text]


def _conditions(source: bytes, tokens: list[_Token]) -> Iterator[tuple[int, int, str]]:
    """Negated, unless a change of their only comparison or of their ``not`` is just that."""
    for number, token in enumerate(tokens):
        if token.text not in CONDITIONS:
            continue
        closing = CONDITIONS[token.text]
        inner: list[_Token] = []
        for each in tokens[number + 1 :]:
            if each.text == closing:
                break
            inner.append(each)
        texts = {each.text for each in inner}
        if {"and", "or"} & texts or not texts & {"<", "<=", ">", ">=", "==", "~=", "not"}:
            start, end = inner[0].start, inner[-1].end
            yield start, end, f"not ({source[start:end].decode()})"


def _statements(source: bytes, tokens: list[_Token]) -> Iterator[tuple[int, int, str]]:
    """Lines that are an assignment, a call, a return amid a script or a break, taken out."""
    for match in re.finditer(rb"^[ \t]*(\S[^\n]*)$", source, re.MULTILINE):
        inner = [each for each in tokens if match.start(1) <= each.start < match.end()]
        if not inner:
            continue
        first, second = inner[0].text, inner[1].text if len(inner) > 1 else ""
        opened = sum(each.text in ("(", "{", "[") for each in inner)
        closed = sum(each.text in (")", "}", "]") for each in inner)
        is_statement = (
            first == "break"
            or (first == "return" and match[0].startswith(b" "))
            or (first not in BEGINNINGS and second in ("=", "(", "[", ","))
        )
        if is_statement and opened == closed and inner[-1].text not in ("and", "or"):
            yield inner[0].start, inner[-1].end, ""
