"""What each `format` asks of a string, in linear time.

The formats of draft 2020-12, asserted in every draft. Written here because the checkers that `jsonschema` can be installed with
differ by draft, take most of a second to import, and one of them (IRIs) takes seconds on a hostile text. Sources: RFC 3339 (dates,
durations), 3986 and 3987 (URIs, IRIs), 5321 (e-mail), 1123 (hosts), 4122 (UUIDs), 6901 (pointers), 6570 (URI templates).
"""

import ipaddress
from collections.abc import Callable, Mapping
from datetime import date
from functools import lru_cache
from typing import Any

from proxy.schemas.patterns import BadPattern, linear, pattern

_MAX_TEXT = 65_536
"""Longer texts are not checked."""

_DATE = r"\d{4}-\d\d-\d\d"
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_CLOCK = r"T(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S)"
_DAYS = r"\d+Y(?:\d+M(?:\d+D)?)?|\d+M(?:\d+D)?|\d+D"
_DURATION = rf"P(?:\d+W|{_CLOCK}|(?:{_DAYS})(?:{_CLOCK})?)"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_IDN_LABEL = r"[\pL\pN\pM](?:[\pL\pN\pM\x{b7}\x{30fb}\x{200c}\x{200d}-]*[\pL\pN\pM])?"
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"
_TEMPLATE = r"(?:[^\s{}\"'<>\\^`|]|\{[+#./;?&=,!@|]?[\w.%]+(?::\d{1,4}|\*)?(?:,[\w.%]+(?::\d{1,4}|\*)?)*\})*"
_ESCAPED = r"%[0-9A-Fa-f]{2}"


def _uri(extra: str, *, reference: bool) -> str:
    """RFC 3986; `extra` are the characters that RFC 3987 adds."""
    char = rf"(?:[A-Za-z0-9._~!$&'()*+,;=:@{extra}-]|{_ESCAPED})"
    host = rf"(?:\[[0-9A-Fa-f:.v]+\]|(?:[A-Za-z0-9._~!$&'()*+,;={extra}-]|{_ESCAPED})*)"
    user = rf"(?:(?:[A-Za-z0-9._~!$&'()*+,;=:{extra}-]|{_ESCAPED})*@)?"
    path = rf"(?://{user}{host}(?::\d*)?(?:/{char}*)*|/?(?:{char}+(?:/{char}*)*)?)"
    first = rf"(?:[A-Za-z0-9._~!$&'()*+,;=@{extra}-]|{_ESCAPED})+"  # a colon here would make it a scheme
    relative = rf"(?://{user}{host}(?::\d*)?(?:/{char}*)*|/(?:{char}+(?:/{char}*)*)?|{first}(?:/{char}*)*)?"
    tail = rf"(?:\?(?:{char}|[/?])*)?(?:#(?:{char}|[/?])*)?"
    whole = rf"[A-Za-z][A-Za-z0-9+.-]*:{path}{tail}"
    return rf"(?:{whole}|{relative}{tail})" if reference else whole


_IRI = r"\x{a0}-\x{d7ff}\x{f900}-\x{fdcf}\x{fdf0}-\x{ffef}\x{10000}-\x{1fffd}\x{20000}-\x{2fffd}\x{30000}-\x{efffd}"

_EXPRESSIONS: Mapping[str, str] = {
    "date-time": rf"{_DATE}[Tt]{_TIME}",
    "date": _DATE,
    "time": _TIME,
    "duration": _DURATION,
    "email": r"""(?:"[^"\r\n]+"|[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*)@(?:\[[^\s\[\]]+\]|"""
    + rf"{_LABEL}(?:\.{_LABEL})*)",
    "idn-email": r"""(?:"[^"\r\n]+"|[^\s@"(),:;<>\[\]\\]+)@(?:\[[^\s\[\]]+\]|""" + rf"{_IDN_LABEL}(?:\.{_IDN_LABEL})*)",
    "hostname": rf"{_LABEL}(?:\.{_LABEL})*",
    "idn-hostname": rf"{_IDN_LABEL}(?:[.\x{{3002}}\x{{ff0e}}\x{{ff61}}]{_IDN_LABEL})*",
    "uri": _uri("", reference=False),
    "uri-reference": _uri("", reference=True),
    "iri": _uri(_IRI, reference=False),
    "iri-reference": _uri(_IRI, reference=True),
    "uuid": r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}",
    "json-pointer": _POINTER,
    "relative-json-pointer": rf"(?:0|[1-9]\d*)(?:#|{_POINTER})",
    "uri-template": _TEMPLATE,
}


@lru_cache(maxsize=32)
def _expression(name: str) -> Any:
    return linear(_EXPRESSIONS[name])


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text[:10])
    except ValueError:
        return False
    return True


def _is_address(version: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]) -> Callable[[str], bool]:
    def test(text: str) -> bool:
        try:
            version(text)
        except ValueError:
            return False
        return "%" not in text

    return test


def _is_regex(text: str) -> bool:
    try:
        pattern(text)
    except BadPattern:
        return False
    return True


_TESTS: Mapping[str, Callable[[str], bool]] = {
    "date-time": _is_day,
    "date": _is_day,
    "hostname": lambda text: len(text) <= 253,
    "ipv4": _is_address(ipaddress.IPv4Address),
    "ipv6": _is_address(ipaddress.IPv6Address),
    "regex": _is_regex,
}


def has_format(text: str, name: str) -> bool | None:
    """Whether a text has a format; true for formats that JSON Schema does not define. None: the text is too long to tell."""
    if name not in _EXPRESSIONS and name not in _TESTS:
        return True
    if len(text) > _MAX_TEXT:
        return None
    if name in _EXPRESSIONS and _expression(name).fullmatch(text.encode("utf-8", "replace")) is None:
        return False
    return name not in _TESTS or _TESTS[name](text)
