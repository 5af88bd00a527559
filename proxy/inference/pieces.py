"""Text cut into the pieces of a stream."""

from collections.abc import Iterator

import regex

_BLANK, _LETTER = r"(?:(?=\s)\X)", r"(?:(?!\s)\X)"
_PIECE = regex.compile(rf"(?:{_BLANK}*+{_LETTER}{{1,40}}{_BLANK}*+){{1,4}}|{_BLANK}+", regex.V1)
"""A few words with the white space around them. Words of more than 40 characters are cut between characters as people see them."""


def pieces(text: str) -> Iterator[str]:
    """Pieces of a few words that join to the text exactly and never split a character as people see it."""
    for match in _PIECE.finditer(text):
        yield match[0]
