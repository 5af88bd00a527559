"""Regular expressions of schemas, which are the caller's: matched in linear time, or hardly at all."""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import re2  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator, ValidationError, validators

_SHORT = 16
"""Characters of a text that may be tried against an expression of exponential cost: some 2^16 steps."""

_CLASSES: Mapping[str, str] = {"L": "A-Za-z", "Lu": "A-Z", "Ll": "a-z", "N": "0-9", "Nd": "0-9"}
_PROPERTY = re.compile(r"\[(?:\\.|[^\]\\])*\]|\\p\{(\w+)\}")
_INNER_PROPERTY = re.compile(r"\\p\{(\w+)\}")


def is_linear(pattern: str) -> bool:
    """Whether any text can be tried against an expression without fear."""
    return _linear(pattern) is not None


def matches(pattern: str, text: str) -> bool:
    """Whether an expression is met somewhere in a text. What cannot be told in time counts as met, as does what is no
    expression here: the caller has made the text from the expression, or asked `is_linear` before.
    """
    linear = _linear(pattern)
    if linear is not None:
        return linear(text)
    compiled = _backtracking(pattern) if len(text) <= _SHORT else None
    return compiled is None or compiled.search(text) is not None


def in_our_dialect(pattern: str) -> str:
    """An expression of ECMA 262 in Python's words, so that strings can be made from it: named groups, and the commonest
    of its properties, narrowed to ASCII.
    """
    return _PROPERTY.sub(_plain_class, pattern.replace("(?<", "(?P<").replace("(?P<=", "(?<=").replace("(?P<!", "(?<!"))


def _plain_class(found: re.Match[str]) -> str:
    if found[1] is not None:
        return f"[{_CLASSES.get(found[1], 'A-Za-z')}]"
    return _INNER_PROPERTY.sub(lambda inner: _CLASSES.get(inner[1], "A-Za-z"), found[0])


def _linear(pattern: str) -> Callable[[str], bool] | None:
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error:
        return None
    return lambda text: compiled.search(text) is not None


def _backtracking(pattern: str) -> re.Pattern[str] | None:
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            return re.compile(in_our_dialect(pattern))
    except (re.error, RecursionError, OverflowError):
        return None


def _check(validator: Any, pattern: str, instance: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


CHECKER: Any = validators.extend(Draft202012Validator, {"pattern": _check})  # type: ignore[no-untyped-call]
"""The class of validators whose `pattern` is bounded in time."""
