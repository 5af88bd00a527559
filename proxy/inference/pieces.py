"""Text cut into the pieces of a stream."""

from collections.abc import Iterator
from typing import Final

import regex

MOST_PIECES: Final = 300
_SHORTEST: Final = 16
"""Characters of a piece at least: a few words."""
_WORD_END: Final = regex.compile(r"\S{0,40}\s{0,80}")
_CHARACTER: Final = regex.compile(r"\X")
_FLAG_HALVES: Final = regex.compile("(?r)[\U0001f1e6-\U0001f1ff]*")
_NEAR: Final = 64
"""Characters before a wanted end from which the search for it begins."""
_WINDOW: Final = 4096
"""Characters that are searched; only what is written as one character of more than these is ever split."""


def pieces(text: str, most: int = MOST_PIECES) -> Iterator[str]:
    """Pieces of a few words, longer ones for long texts, that join to the text exactly.

    They end behind white space, or where words are very long, between characters as people see them. Lazy, and linear in time: only
    what is near an end of a piece is searched.
    """
    size = max(_SHORTEST, -(-len(text) // most))
    start = 0
    while len(text) - start > size:
        end = _cut(text, start, start + size)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _cut(text: str, start: int, wanted: int) -> int:
    """The first boundary from `wanted` on, behind a word where one ends soon. `start` is a boundary before it."""
    word = _WORD_END.match(text, wanted)
    if word and text[word.end() - 1].isspace():
        wanted = word.end()
    boundary = max(start, wanted - _NEAR)
    # Wherever a search begins, the first end it finds is a boundary, unless it halves one of several flags in a row.
    halves = _FLAG_HALVES.match(text, start, boundary)
    boundary -= len(halves[0]) % 2 if halves else 0
    window = text[boundary : boundary + _WINDOW]
    end = 0
    while boundary + end < wanted and (character := _CHARACTER.match(window, end)):
        end = character.end()
    return boundary + end
