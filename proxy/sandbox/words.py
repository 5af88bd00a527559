"""What a person's words offer for the fields of a schema: names, numbers, quotations, choices."""

import re
from collections.abc import Container, Iterable, Mapping
from itertools import dropwhile
from typing import Any

from proxy.sandbox.fill import MISSING

HEARD = 20_000
"""Characters of a text that are listened to; the rest is noise."""

_QUOTED = re.compile(r"\"([^\"\n]+)\"|“([^”\n]+)”|`([^`\n]+)`|(?<!\w)'([^'\n]+)'(?!\w)")
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,8}")
_URL = re.compile(r"https?://[^\s\"'<>)\]]+")
_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2})?(?:Z|[+-]\d{2}:\d{2})?)?\b")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?")
_FORMULA = re.compile(r"(?:sqrt|[-(\d])[\d\s().,+*/^%×÷-]{0,60}[+*/^%×÷-][\d\s().,+*/^%×÷-]{0,60}[\d)]")
_NAME = re.compile(r"[A-Z][\w'’&-]*(?:\s+(?:(?:de|la|of|the|van|von)\s+)?[A-Z][\w'’&-]*)*(?:,\s[A-Z]{2}\b)?")
_PLACE = re.compile(r"\b(?:in|at|for|to|from|of|near|about)\s+(?:the\s+)?([a-z][\w-]+)")
_SENTENCE = re.compile(r"[.!?:]\s+|\n+")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def listed(words: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(words.split())


_OPENERS = listed(
    "a an and are as ask at book but buy calculate call can check compare compute convert could create delete "
    "describe did do does explain extract fetch find for from generate get give go has have hello help hey hi "
    "how i if in is it let list look make may my no now of on open order please play put read remind run say "
    "search send set should show summarise summarize tell thank thanks that the then there these this to "
    "translate turn update use was we what when where which who why will with would write yes you your ok okay"
)
_WHOLE_TEXT = frozenset(
    {"query", "q", "text", "message", "question", "prompt", "input", "content", "sentence", "search", "body"}
)
_NAMED = listed(
    "city location place country name person user customer author origin destination from to address region "
    "state town topic subject title company symbol ticker product item team artist recipient"
)
_NEGATIONS = r"\b(?:no|not|without|don't|do not|never|disable|exclude)\b[^.,;]{0,20}"


def words_of(text: str) -> list[str]:
    """Lower-case words; identifiers are taken apart at `_`, `-` and capitals."""
    return [word.lower() for word in _WORD.findall(text)]


class Words:
    """Answers hints from a text. The same name gets the same value again; another name gets the next one.

    Args:
        text: what was said.
        facts: values known by name, such as the fields of a tool's result.
        no_names: lower-case words that are nobody's name, wherever they stand.
    """

    def __init__(
        self, text: str, facts: Mapping[str, Any] | None = None, *, no_names: Container[str] = frozenset()
    ) -> None:
        self.text = text = text[:HEARD]
        self._facts = {name.lower(): value for name, value in (facts or {}).items()}
        self.quoted = [next(filter(None, groups)) for groups in _QUOTED.findall(text)]
        rest = _QUOTED.sub(" ", text)
        self.emails = _EMAIL.findall(rest)
        self.urls = _URL.findall(rest)
        rest = _URL.sub(" ", _EMAIL.sub(" ", rest))
        self.dates = _DATE.findall(rest)
        self.numbers = [_number(found) for found in _NUMBER.findall(_DATE.sub(" ", rest))]
        self.names = [name for name in _names(rest) if name.lower() not in no_names]
        self.places = [place for place in _PLACE.findall(rest) if place.lower() not in no_names]
        self._given: dict[str, Any] = {}
        self._used: list[Any] = []

    def hint(self, name: str, schema: Mapping[str, Any]) -> Any:
        """A value for a property, or MISSING. It may still not fit the schema."""
        if name not in self._given:
            self._given[name] = self._found(name, schema)
        return self._given[name]

    def _found(self, name: str, schema: Mapping[str, Any]) -> Any:
        if name.lower() in self._facts:
            return self._facts[name.lower()]
        if "enum" in schema:
            return self._mentioned(schema["enum"])
        named = schema.get("type")
        for kind in [named] if isinstance(named, str) else named or []:
            value = self._of_kind(kind, name, schema)
            if value is not MISSING:
                return value
        return MISSING

    def _of_kind(self, kind: str, name: str, schema: Mapping[str, Any]) -> Any:
        match kind:
            case "boolean":
                return self._truth(name)
            case "integer" | "number":
                return self._figure(name, whole=kind == "integer")
            case "string":
                return self._phrase(name, schema)
            case "array":
                return self._several(name, schema.get("items"))
            case _:
                return MISSING

    def _mentioned(self, choices: Iterable[Any]) -> Any:
        for choice in choices:
            if choice not in (None, "") and re.search(
                rf"(?<!\w){re.escape(str(choice))}(?!\w)", self.text, re.IGNORECASE
            ):
                return choice
        return MISSING

    def _truth(self, name: str) -> Any:
        parts = [word for word in words_of(name) if word not in ("is", "has", "include", "use", "with", "enable")]
        for part in parts:
            if re.search(_NEGATIONS + re.escape(part[:6]), self.text, re.IGNORECASE):
                return False
            if re.search(rf"\b{re.escape(part[:6])}", self.text, re.IGNORECASE):
                return True
        return MISSING

    def _figure(self, name: str, *, whole: bool) -> Any:
        fitting = [number for number in self.numbers if not whole or isinstance(number, int)]
        beside = re.search(rf"\b{re.escape(' '.join(words_of(name)))}\b\D{{0,12}}?(-?\d+(?:\.\d+)?)", self.text.lower())
        if beside and (number := _number(beside.group(1))) in fitting:
            return self._use(number)
        return next((self._use(number) for number in fitting if number not in self._used), MISSING)

    def _phrase(self, name: str, schema: Mapping[str, Any]) -> Any:
        parts = set(words_of(name))
        shape = schema.get("format")
        if parts & {"email", "mail"} or shape == "email":
            return self._next(self.emails)
        if parts & {"url", "uri", "link"} or shape == "uri":
            return self._next(self.urls)
        if parts & {"date", "day", "datetime"} or shape in ("date", "date-time"):
            return self._next(self.dates)
        if parts & {"expression", "formula", "equation", "calculation"}:
            formula = _FORMULA.search(self.text)
            return formula.group().strip() if formula else self._next(self.quoted)
        quoted = self._next(self.quoted)
        if quoted is not MISSING:
            return quoted
        if parts & _WHOLE_TEXT:
            return self.text.strip() or MISSING
        if parts & _NAMED:
            return self._next(self.names or self.places)
        return MISSING

    def _several(self, name: str, items: Any) -> Any:
        if not isinstance(items, Mapping):
            return MISSING
        if "enum" in items:
            said = [choice for choice in items["enum"] if self._mentioned([choice]) is not MISSING]
            return said or MISSING
        match items.get("type"):
            case "integer":
                found: list[Any] = [number for number in self.numbers if isinstance(number, int)]
            case "number":
                found = list(self.numbers)
            case "string":
                found = self.quoted or self.names
            case _:
                found = []
        return [self._use(value) for value in found] or MISSING

    def _next(self, found: Iterable[Any]) -> Any:
        return next((self._use(value) for value in found if value not in self._used), MISSING)

    def _use(self, value: Any) -> Any:
        self._used.append(value)
        return value


def _number(text: str) -> int | float:
    plain = text.replace(",", "")
    return float(plain) if "." in plain else int(plain)


def _names(text: str) -> Iterable[str]:
    for sentence in _SENTENCE.split(text):
        for found in _NAME.finditer(sentence):
            name = " ".join(dropwhile(_opens, found.group().split()))
            if name:
                yield name


def _opens(word: str) -> bool:
    """Whether a word is only capital because it begins a sentence."""
    return word.lower().rstrip("'’s,") in _OPENERS
