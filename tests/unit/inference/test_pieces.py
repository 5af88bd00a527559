"""Text → pieces: they join to it exactly, are few, and never split a character as people see it."""

import itertools

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from proxy.inference.result import MOST_PIECES, pieces

LONG = [
    "word " * 20_000,
    "a" * 100_000,
    "日本語" * 30_000,
    "한국어 " * 20_000,
    "क्षत्रिय" * 10_000,
    "🇩🇪" * 10_000,
    "👩‍👩‍👧‍👦" * 5_000,
    "e\u0301" * 30_000,
    "a\r\n" * 30_000,
    " " * 100_000,
]
ALPHABET = st.sampled_from(
    [*"ab \n\r\t", "\u0301", "\u200d", "🇩", "🇪", "👩", "👧", "한", "ᄀ", "ᅡ", "क", "्", "ष", "日", "é", "\u2028"]
)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=300) | st.lists(ALPHABET, max_size=300).map("".join)


def characters(text: str) -> list[str]:
    return regex.findall(r"\X", text)


@given(TEXT, st.integers(1, 20))
def test_pieces_join_to_the_text_exactly_and_never_split_a_character(text: str, most: int) -> None:
    found = list(pieces(text, most))
    assert "".join(found) == text
    assert all(found)
    assert sum(len(characters(piece)) for piece in found) == len(characters(text))


@pytest.mark.parametrize("text", LONG, ids=lambda text: ascii(text[:3]))
def test_a_long_text_has_few_pieces(text: str) -> None:
    found = list(pieces(text))
    assert "".join(found) == text
    assert len(found) <= MOST_PIECES
    assert max(map(len, found)) < 2 * len(text) / MOST_PIECES + 200
    # Where a piece ends, no character does not.
    for left, right in itertools.pairwise(found):
        assert len(characters(left[-40:] + right[:40])) == len(characters(left[-40:])) + len(characters(right[:40]))


def test_pieces_of_a_short_text_are_a_few_words_and_end_behind_them() -> None:
    found = list(pieces("word " * 100))
    assert len(found) == 25
    assert set(found) == {"word " * 4}


def test_the_last_word_is_not_cut() -> None:
    assert list(pieces("Said by the sandbox.")) == ["Said by the sandbox."]
    assert list(pieces("This is the text of the narrative-chat-proxy."))[-1] == "of the narrative-chat-proxy."


def test_pieces_are_cut_lazily() -> None:
    assert next(pieces("word " * 10_000_000))
