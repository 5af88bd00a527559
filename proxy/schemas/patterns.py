"""Clients' regular expressions and formats, matched in linear time.

JSON Schema means ECMA-262 patterns, found anywhere in the text. RE2 matches without backtracking, so no pattern can stall the
server; what it spells differently is translated. It knows no look-around and no back-references: look-ahead at the very start
is split off as a condition of its own; a pattern with any other is not checked.

Formats are those of draft 2020-12, asserted in every draft. Written here because the checkers that `jsonschema` can be installed with
differ by draft, take most of a second to import, and one of them (IRIs) takes seconds on a hostile text. Sources: RFC 3339 (dates,
durations), 3986 and 3987 (URIs, IRIs), 5321 (e-mail), 1123 (hosts), 4122 (UUIDs), 6901 (pointers), 6570 (URI templates).
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

import re2  # type: ignore[import-untyped]

_MAX_PATTERN = 4_096
_MAX_MEMORY = 1 << 20
"""Bytes for one expression, most of them only taken while it searches."""
_MAX_WORK = 5_000_000
"""Characters times instructions of the compiled pattern: some 20 ms in RE2's slowest mode."""
_MAX_REPEAT = 1_000
_MAX_EXPANDED = 12_000
"""Characters and sets of a pattern with its repeats written out; RE2 takes up to 10 ms to compile as many, and cannot be interrupted."""
_COMPILED_AT_ONCE = 400
"""Larger patterns are compiled when they are first searched for."""

_SPACE = r"\t\n\v\f\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}"
_NOT_SPACE = (
    r"\x{0}-\x{8}\x{e}-\x{1f}!-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}\x{202a}-\x{202e}"
    r"\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{fefe}\x{ff00}-\x{10ffff}"
)
_CHARS = {".": r"[^\n\r\x{2028}\x{2029}]", "{": r"\{", "}": r"\}"}
"""What single characters are in RE2's spelling, where it differs."""

_CATEGORIES = {
    name: short
    for short, *long in map(str.split, (
        "L Letter", "Lu Uppercase_Letter", "Ll Lowercase_Letter", "Lt Titlecase_Letter", "Lm Modifier_Letter", "Lo Other_Letter",
        "M Mark Combining_Mark", "Mn Nonspacing_Mark", "Mc Spacing_Mark", "Me Enclosing_Mark",
        "N Number", "Nd Decimal_Number digit", "Nl Letter_Number", "No Other_Number",
        "P Punctuation punct", "Pc Connector_Punctuation", "Pd Dash_Punctuation", "Ps Open_Punctuation", "Pe Close_Punctuation",
        "Pi Initial_Punctuation", "Pf Final_Punctuation", "Po Other_Punctuation",
        "S Symbol", "Sm Math_Symbol", "Sc Currency_Symbol", "Sk Modifier_Symbol", "So Other_Symbol",
        "Z Separator", "Zs Space_Separator", "Zl Line_Separator", "Zp Paragraph_Separator",
        "C Other", "Cc Control", "Cf Format", "Co Private_Use",
    ))
    for name in long
}  # fmt: skip
"""The long names of Unicode's general categories, which RE2 knows by their short names only."""


class BadPattern(ValueError):
    """Not a regular expression in any spelling."""


class _Unsupported(Exception):
    """A regular expression that a linear-time engine cannot run."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern ready to search with.

    Attributes:
        plain: it needs no look-around and no back-reference, so other engines take it too.
        conditions: expressions in RE2's spelling; each must be found (True) or must not be (False). None: it cannot be checked.
        size: about how many instructions they take. Compiling them, when they are first needed, takes about 1 µs for each.
    """

    plain: bool
    conditions: tuple[tuple[str, bool], ...] | None
    size: int

    def cost(self, text: str) -> int:
        """What searching a text takes at most: characters times instructions. 250 take about 1 µs in RE2's slowest mode."""
        return min(self.size * (len(text) + 1), _MAX_WORK)

    def found_in(self, text: str) -> bool | None:
        """Whether the pattern matches somewhere in the text; None when that cannot be decided in bounded time."""
        data = text.encode("utf-8", "replace")
        for source, wanted in self.conditions or ():
            expression, _ = _expression(source)
            if expression is None or expression.programsize * (len(data) + 1) > _MAX_WORK:
                return None
            if (expression.search(data) is not None) is not wanted:
                return False
        return None if self.conditions is None else True


@lru_cache(maxsize=1_024)
def pattern(source: str) -> Pattern:
    """Prepare an ECMA-262 pattern. Raises BadPattern: it is no regular expression."""
    size = _checked_size(source) if len(source) <= _MAX_PATTERN else _MAX_EXPANDED + 1
    for plain in (True, False) if size <= _MAX_EXPANDED else ():
        try:
            conditions = ((_translated(source), True),) if plain else _conditions(source)
            for condition, _ in conditions if size <= _COMPILED_AT_ONCE else ():
                _, error = _expression(condition)
                if "character class range" in error and r"\p" not in condition.lower():
                    raise BadPattern("a range in a character set runs backwards")
                if error:
                    raise _Unsupported
            return Pattern(plain, conditions, size)
        except _Unsupported:
            continue
    return Pattern(plain=False, conditions=None, size=0)


def _conditions(source: str) -> tuple[tuple[str, bool], ...]:
    """`^(?=a)(?!b)c` as: `^(?:a)` is found, `^(?:b)` is not, `^c` is. All start at the one place where `^` holds."""
    rest = source.removeprefix("^")
    if rest == source or any(text == "|" for _, text in _outside_groups(source)):
        raise _Unsupported
    conditions = []
    while rest.startswith(("(?=", "(?!")):
        end = next(start for start, _ in _outside_groups(rest))
        conditions.append((_translated(f"^(?:{rest[3:end]})"), rest[2] == "="))
        rest = rest[end + 1 :]
    if rest.startswith(("*", "+", "?", "{")):
        raise _Unsupported
    return (*conditions, (_translated(f"^{rest}"), True))


@lru_cache(maxsize=256)
def _expression(source: str) -> tuple[Any, str]:
    """An expression in RE2's own spelling, compiled within bounded memory, which searches bytes of UTF-8; or why it is refused."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    try:
        return re2.compile(source, options), ""
    except (re2.error, UnicodeEncodeError) as error:  # wrong, too large, or with half of a character
        return None, str(error) or "unknown"


_TOKEN = re.compile(
    r"(?P<escape>\\(?:u\{[0-9a-fA-F]{1,6}\}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|c[A-Za-z]|[pP]\{[^}]*\}|k<[^>]*>|[0-9]+|.))"
    r"|(?P<set>\[\^?)"
    r"|(?P<open>\((?:\?(?:[=!]|<[=!]|[a-zA-Z]*(?:-[a-zA-Z]+)?[:)]|P?<[A-Za-z_$][\w$]*>))?)"
    r"|(?P<close>\))"
    r"|(?P<repeat>(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??)"
    r"|(?P<char>[^\\])",
    re.DOTALL,
)


def _tokens(source: str) -> Iterator[tuple[str, int, str]]:
    """(kind, start, text) of each token; a character set is one token."""
    position = 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        if match is None:
            raise BadPattern("it ends in a lone backslash")
        kind, start, position = match.lastgroup or "char", position, match.end()
        if kind == "set":
            while source[position : position + 1] not in {"]", ""}:
                position += 2 if source[position] == "\\" else 1
            if position >= len(source):
                raise BadPattern("a character set is not closed")
            position += 1
        text = source[start:position]
        yield ("char" if kind == "open" and text.endswith(")") else kind), start, text  # `(?i)` opens nothing


def _checked_size(source: str) -> int:
    """About how many instructions the pattern takes, each repeat written out. Raises BadPattern: its brackets or repeats are wrong."""
    sizes = [0]
    last, repeatable = 0, False
    for kind, _, text in _tokens(source):
        match kind:
            case "open":
                sizes.append(0)
                last = 0
            case "close":
                last = sizes.pop()
                if not sizes:
                    raise BadPattern("a bracket is closed that was not opened")
                sizes[-1] += last
            case "repeat":
                if not repeatable and text[0] != "{":
                    raise BadPattern(f"there is nothing for {text!r} to repeat")
                counts = [int(count) for count in re.findall(r"\d+", text)]
                sizes[-1] += last * (max(counts, default=1) - 1)
                last *= max(counts, default=1)
            case _:
                last = 40 if r"\p{" in text.lower() else 4 if text == "." or len(text) > 2 else 1
                sizes[-1] += last
        repeatable = kind != "open" and text != "|"
    if len(sizes) > 1:
        raise BadPattern("a bracket is not closed")
    return sizes[0]


def _outside_groups(source: str) -> Iterator[tuple[int, str]]:
    """(start, text) of each token that stands outside all groups, or closes one of those."""
    depth = 0
    for kind, start, text in _tokens(source):
        depth += (kind == "open") - (kind == "close")
        if depth == 0:
            yield start, text


def _translated(source: str) -> str:
    """The pattern in RE2's spelling."""
    out: list[str] = []
    opened: list[int] = []
    atom = 0  # where in `out` that starts which a repeat would repeat
    for kind, _, text in _tokens(source):
        match kind:
            case "repeat":
                out[atom:] = _repeated("".join(out[atom:]), text)
            case "close":
                atom = opened.pop()
                out.append(text)
            case "open":
                if text in {"(?=", "(?!", "(?<=", "(?<!"}:
                    raise _Unsupported
                atom = len(out)
                opened.append(atom)
                out.append(text.replace("(?<", "(?P<").replace("$", "_"))
            case _:
                atom = len(out)
                out.append(
                    _escape(text) if kind == "escape" else _set(text) if kind == "set" else _CHARS.get(text, text)
                )
    return "".join(out)


def _repeated(atom: str, repeat: str) -> list[str]:
    """RE2 repeats at most 1,000 times: longer ones are written as several in a row."""
    bounds = re.match(r"\{(\d+)(,?)(\d*)\}", repeat)
    least, most = (int(bounds[1]), int(bounds[3] or bounds[1])) if bounds else (0, 0)
    if bounds is None or most <= _MAX_REPEAT:
        return [atom, repeat]
    if most > 64 * _MAX_REPEAT:
        raise _Unsupported
    pieces = [f"{atom}{{{min(least - done, _MAX_REPEAT)}}}" for done in range(0, least, _MAX_REPEAT)]
    pieces += [f"{atom}{{0,{min(most - done, _MAX_REPEAT)}}}" for done in range(least, most, _MAX_REPEAT)]
    return ["(?:", *pieces, f"{atom}*" if bounds[2] and not bounds[3] else "", ")"]


def _escape(text: str, *, in_set: bool = False) -> str:
    body = text[1:]
    match body[0]:
        case "s" | "S":
            spaces = _SPACE if body == "s" else _NOT_SPACE
            return spaces if in_set else f"[{spaces}]"
        case "u" | "x" if len(body) > 1:
            return f"\\x{{{body[1:].strip('{}')}}}"
        case "c" if len(body) > 1:
            return f"\\x{{{ord(body[1]) % 32:x}}}"
        case "p" | "P" if len(body) > 1:
            name = re.sub(r"(?:General_Category|gc|Script|sc)=", "", body[2:-1])
            return f"\\{body[0]}{{{_CATEGORIES.get(name, name)}}}"
        case "k":
            raise _Unsupported
        case "b" if in_set:
            return r"\x{8}"
        case "Z":
            return r"\z"  # what Python and PCRE mean by it; ECMA-262 has no such escape
        case "0" if body == "0":
            return r"\x{0}"
        case letter if letter in "dDwWbBnrtvfAz":
            return text
        case digit if digit.isdigit():
            raise _Unsupported
        case _:
            return re.escape(body)


def _set(text: str) -> str:
    if text in {"[]", "[^]"}:
        return r"[^\x{0}-\x{10ffff}]" if text == "[]" else r"[\x{0}-\x{10ffff}]"
    head = "[^" if text.startswith("[^") else "["
    inner = _TOKEN.sub(
        lambda token: _escape(token[0], in_set=True) if token.lastgroup == "escape" else token[0].replace("[", r"\["),
        text[len(head) : -1],
    )
    return f"{head}{inner}]"


# ---------------------------------------------------------------- formats

_MAX_TEXT = 65_536
"""Longer texts are not checked."""

_DATE = r"\d{4}-\d\d-\d\d"
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_CLOCK = r"T(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S)"
_DAYS = r"\d+Y(?:\d+M(?:\d+D)?)?|\d+M(?:\d+D)?|\d+D"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_IDN_LABEL = r"[\pL\pN\pM](?:[\pL\pN\pM\x{b7}\x{30fb}\x{200c}\x{200d}-]*[\pL\pN\pM])?"
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"
_TEMPLATE = r"(?:[^\s{}\"'<>\\^`|]|\{[+#./;?&=,!@|]?[\w.%]+(?::\d{1,4}|\*)?(?:,[\w.%]+(?::\d{1,4}|\*)?)*\})*"


def _uri(extra: str, *, reference: bool) -> str:
    """RFC 3986; `extra` are the characters that RFC 3987 adds."""
    plain, char, login, first = (
        rf"(?:[A-Za-z0-9._~!$&'()*+,;={more}{extra}-]|%[0-9A-Fa-f]{{2}})" for more in ("", ":@", ":", "@")
    )  # first: a colon in the first segment of a relative path would make it a scheme
    host = rf"//(?:{login}*@)?(?:\[[0-9A-Fa-f:.v]+\]|{plain}*)(?::\d*)?(?:/{char}*)*"
    path = rf"(?:{host}|/?(?:{char}+(?:/{char}*)*)?)"
    relative = rf"(?:{host}|/(?:{char}+(?:/{char}*)*)?|{first}+(?:/{char}*)*)?"
    tail = rf"(?:\?(?:{char}|[/?])*)?(?:#(?:{char}|[/?])*)?"
    whole = rf"[A-Za-z][A-Za-z0-9+.-]*:{path}{tail}"
    return rf"(?:{whole}|{relative}{tail})" if reference else whole


_IRI = r"\x{a0}-\x{d7ff}\x{f900}-\x{fdcf}\x{fdf0}-\x{ffef}\x{10000}-\x{1fffd}\x{20000}-\x{2fffd}\x{30000}-\x{efffd}"

_EXPRESSIONS: Mapping[str, str] = {
    "date-time": rf"{_DATE}[Tt]{_TIME}",
    "date": _DATE,
    "time": _TIME,
    "duration": rf"P(?:\d+W|{_CLOCK}|(?:{_DAYS})(?:{_CLOCK})?)",
    "email": r"""(?:"[^"\r\n]+"|[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*)@(?:\[[^\s\[\]]+\]|"""
    + rf"{_LABEL}(?:\.{_LABEL})*)",
    "idn-email": r"""(?:"[^"\r\n]+"|[^\s@"(),:;<>\[\]\\]+)@(?:\[[^\s\[\]]+\]|""" + rf"{_IDN_LABEL}(?:\.{_IDN_LABEL})*)",
    "hostname": rf"{_LABEL}(?:\.{_LABEL})*",
    "idn-hostname": rf"{_IDN_LABEL}(?:[.\x{{3002}}\x{{ff0e}}\x{{ff61}}]{_IDN_LABEL})*",
    "uri": _uri("", reference=False),
    "uri-reference": _uri("", reference=True),
    "iri": _uri(_IRI, reference=False),
    "iri-reference": _uri(_IRI, reference=True),
    "ipv6": "[0-9A-Fa-f:.]+",  # without a zone
    "uuid": r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}",
    "json-pointer": _POINTER,
    "relative-json-pointer": rf"(?:0|[1-9]\d*)(?:#|{_POINTER})",
    "uri-template": _TEMPLATE,
}


_PARSERS: Mapping[str, Callable[[str], object]] = {
    "date-time": lambda text: date.fromisoformat(text[:10]),
    "date": date.fromisoformat,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "regex": pattern,
}
"""What raises ValueError for a text that has not the format, beside the expressions."""


def has_format(text: str, name: str) -> bool | None:
    """Whether a text has a format; true for formats that JSON Schema does not define. None: the text is too long to tell."""
    if name not in _EXPRESSIONS and name not in _PARSERS:
        return True
    if len(text) > _MAX_TEXT:
        return None
    if name in _EXPRESSIONS:
        expression, _ = _expression(_EXPRESSIONS[name])
        if expression.fullmatch(text.encode("utf-8", "replace")) is None:
            return False
    try:
        _PARSERS.get(name, str)(text)
    except ValueError:
        return False
    return name != "hostname" or len(text) <= 253  # RFC 1123
