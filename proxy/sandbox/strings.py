"""Strings that a schema allows, the plainest first."""

import random
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any

from rstr import Rstr

from proxy.sandbox.patterns import in_our_dialect, is_linear, matches

_SEEDS = 300
_MISSES = 200
_LONGEST = 20_000
_LONGEST_PAD = 1_000_000

FORMATS: Mapping[str, tuple[str, ...]] = {
    "date": ("2025-01-31", "2025-02-28", "2025-03-31"),
    "time": ("12:30:00Z", "13:45:00Z", "14:00:00Z"),
    "date-time": ("2025-01-31T12:30:00Z", "2025-02-28T13:45:00Z", "2025-03-31T14:00:00Z"),
    "duration": ("PT1H", "PT2H", "P3D"),
    "email": ("ada@example.com", "grace@example.com", "alan@example.com"),
    "idn-email": ("ada@example.com", "grace@example.com", "alan@example.com"),
    "hostname": ("example.com", "www.example.com", "api.example.com"),
    "idn-hostname": ("example.com", "www.example.com", "api.example.com"),
    "ipv4": ("192.0.2.1", "192.0.2.2", "192.0.2.3"),
    "ipv6": ("2001:db8::1", "2001:db8::2", "2001:db8::3"),
    "uri": ("https://example.com/", "https://example.com/a", "https://example.com/b"),
    "uri-reference": ("https://example.com/", "/a", "/b"),
    "iri": ("https://example.com/", "https://example.com/a", "https://example.com/b"),
    "iri-reference": ("https://example.com/", "/a", "/b"),
    "uri-template": ("https://example.com/{id}", "/a/{id}", "/b/{id}"),
    "uuid": (
        "00000000-0000-4000-8000-000000000001",
        "00000000-0000-4000-8000-000000000002",
        "00000000-0000-4000-8000-000000000003",
    ),
    "json-pointer": ("/a", "/b", "/c"),
    "relative-json-pointer": ("0", "1", "2"),
    "regex": (".*", "a+", "b+"),
}
"""Format → examples."""


def strings(schema: Mapping[str, Any], plain: str) -> Iterator[str]:
    """Different strings that fit `pattern`, `minLength`, `maxLength` and, where it can be had with them, `format`.

    Args:
        schema: a schema for strings.
        plain: what to say when nothing speaks against it.
    """
    shortest = int(schema.get("minLength", 0))
    longest = int(schema.get("maxLength", max(_LONGEST, shortest)))
    if shortest > _LONGEST_PAD:
        return
    pattern = schema.get("pattern")
    examples = FORMATS.get(schema.get("format", ""), ())
    seen: set[str] = set()
    missed = 0
    for text in _candidates(pattern, examples, plain, shortest, longest):
        fits = text not in seen and shortest <= len(text) <= longest
        if fits and (pattern is None or matches(pattern, text)):
            seen.add(text)
            missed = 0
            yield text
        elif (missed := missed + 1) > _MISSES:
            return


def _candidates(pattern: str | None, examples: Sequence[str], plain: str, shortest: int, longest: int) -> Iterator[str]:
    if pattern is None:
        yield from examples
        for number in count(1):
            yield _sized(plain if number == 1 else f"{plain} {number}", number, shortest, longest)
    elif is_linear(pattern):
        yield from examples
        yield plain
        yield from _matching(pattern, shortest, longest, padded=True)
    else:
        yield from _matching(pattern, shortest, longest, padded=False)
        # Not even strings can be made from it, so this is no expression here.
        yield _sized(plain, 1, shortest, longest)


def _matching(pattern: str, shortest: int, longest: int, *, padded: bool) -> Iterator[str]:
    expression = in_our_dialect(pattern)
    for seed in range(_SEEDS):
        text = _from_pattern(expression, seed)
        if text is None:
            return
        yield text
        # An expression without anchors is met by a part of the text, so the rest may be anything.
        missing = shortest - len(text)
        if padded and missing > 0:
            yield text + text[-1:] * missing
            yield text + "a" * missing
            yield "a" * missing + text
        if padded and len(text) > longest:
            yield text[:longest]


def _sized(text: str, number: int, shortest: int, longest: int) -> str:
    if len(text) > longest:
        return _numeral(number)[-longest:].rjust(shortest, "a") if longest else ""
    return text + "." * (shortest - len(text))


def _numeral(number: int) -> str:
    digits = "abcdefghijklmnopqrstuvwxyz0123456789"
    text = ""
    while number:
        number, rest = divmod(number - 1, len(digits))
        text = digits[rest] + text
    return text


class _Steady(random.Random):
    """Choices that depend on the seed alone, prefer plain characters, and repeat little."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._most = min(1 + seed // 4, 64)
        self._spent = 0

    def choice(self, seq: Any) -> Any:
        self._spend(1)
        if all(isinstance(item, str) for item in seq):
            # The library draws from sets of characters, whose order differs from one process to the next.
            ordered = sorted(set(seq))
            return super().choice([item for item in ordered if item.isalnum()] or ordered)
        return super().choice(seq)

    def randint(self, a: int, b: int) -> int:
        self._spend(a)
        return a if b <= a else super().randint(a, min(b, a + self._most))

    def _spend(self, amount: int) -> None:
        self._spent += amount
        if self._spent > _LONGEST:
            raise OverflowError("the pattern makes too long a string")


def _from_pattern(pattern: str, seed: int) -> str | None:
    """A string made from a regular expression; None when the library does not know a part of it."""
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            return Rstr(_Steady(seed)).xeger(pattern)
    except (re.error, KeyError, IndexError, ValueError, TypeError, OverflowError, RecursionError):
        return None


def first_string(schema: Mapping[str, Any], plain: str) -> str | None:
    """The plainest of `strings`, None when there is none."""
    return next(islice(strings(schema, plain), 1), None)
