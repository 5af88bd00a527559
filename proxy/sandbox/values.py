"""Which `output_format_schema` is accepted, and values for it: from a text where it offers something fitting, else made up.

A made-up value depends on nothing but the schema and a number, the variant, so that equal requests get equal answers and an
array of unique items can be filled. Only documented keywords are understood.
"""

import contextlib
import math
import random
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any

import re2  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator, ValidationError, validators
from jsonschema.exceptions import SchemaError
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY
from rstr import Rstr

from proxy.sandbox.http import INVALID_SCHEMA, ModelRejection, SandboxOptions

READ_CHARACTERS = 20_000
"""Characters of a text that values are taken from; the rest is ignored."""

_MAX_DEPTH = 64
"""Levels of nested subschemas above which a schema counts as malformed."""
_LONGEST_BACKTRACKING = 16
"""Characters that are matched against a pattern RE2 does not support: some 2^16 steps at worst."""
_MAX_NODES = 20_000
_MAX_LENGTH = 1_000_000
_MAX_ITEMS = 1_000
_MAX_TRIES = 200
_OPTIONAL_DEPTH = 3
_WHOLE_TEXT = {"query", "question", "prompt", "text", "message", "input", "content", "search", "body", "task"}

_QUOTED = re.compile(r"\"([^\"\n]+)\"|“([^”\n]+)”|`([^`\n]+)`|(?<!\w)'([^'\n]+)'(?!\w)")
_NUMBER = re.compile(r"(?<![\w.-])-?\d{1,15}(?:\.\d{1,10})?(?![\w.]*\w)")
_NAME = re.compile(r"[A-Z][\w'’&-]*(?:\s+(?:(?:de|la|of|the|van|von)\s+)?[A-Z][\w'’&-]*)*")
_SENTENCE = re.compile(r"[.!?:;]\s+|\n+")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


# ---------------------------------------------------------------- schemas

_TYPE = {"enum": ["string", "number", "integer", "boolean", "null", "object", "array"]}
_TYPES = {"if": {"type": "array"}, "then": {"items": _TYPE, "minItems": 1, "uniqueItems": True}, "else": _TYPE}
_TEXT, _COUNT, _NUMERIC = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "number"}

_DOCUMENTED: Mapping[str, Mapping[str, Any]] = {
    "type": _TYPES,
    "properties": {"type": "object", "additionalProperties": {"type": "object"}},
    "required": {"type": "array", "items": _TEXT, "uniqueItems": True},
    "additionalProperties": {"type": ["boolean", "object"]},
    "items": {"type": "object"},
    "enum": {"type": "array", "minItems": 1},
    "multipleOf": {"type": "number", "exclusiveMinimum": 0},
    "uniqueItems": {"type": "boolean"},
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _COUNT),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMERIC),
    **dict.fromkeys(("pattern", "description", "title"), _TEXT),
}
"""Documented keyword → the schema of its values; subschemas in them are checked one by one."""


def check_schema(schema: Mapping[str, Any], size: int, options: SandboxOptions) -> None:
    """Refuses an output schema, of `size` bytes as JSON, that Narrative would not accept.
    Raises ModelRejection: *Invalid schema*, with the path of what is wrong.
    """
    if options.max_schema_bytes is not None and size > options.max_schema_bytes:
        raise _invalid("#", f"the schema is too large: {size} bytes of at most {options.max_schema_bytes}")
    if schema.get("type") != "object":
        raise _invalid("#", "the root must be of type object")
    if options.schema_keywords == "full":
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as fault:
            raise _invalid(fault.json_path.replace("$", "#", 1), fault.message) from fault
        except RecursionError as fault:
            raise _invalid("#", "the schema is nested too deeply") from fault
        return
    types = _TYPES if options.type_lists else _TYPE
    validator = Draft202012Validator({"properties": {**_DOCUMENTED, "type": types}})
    # Iterative, because the client chooses the nesting.
    pending: list[tuple[str, int, Mapping[str, Any]]] = [("#", 0, schema)]
    while pending:
        path, depth, node = pending.pop()
        if depth > _MAX_DEPTH:
            raise _invalid(path, "the schema is nested too deeply")
        if unknown := node.keys() - _DOCUMENTED:
            raise _invalid(path, f"keyword {min(unknown)!r} is not supported")
        for error in validator.iter_errors(node):
            raise _invalid("/".join([path, *map(str, error.absolute_path)]), error.message)
        below = {f"properties/{name}": part for name, part in node.get("properties", {}).items()}
        below |= {name: node[name] for name in ("items", "additionalProperties") if isinstance(node.get(name), dict)}
        pending += [(f"{path}/{name}", depth + 1, part) for name, part in below.items()]


def _invalid(path: str, message: str) -> ModelRejection:
    return ModelRejection(INVALID_SCHEMA, f"{path}: {message}")


def _matches(pattern: str, text: str, *, undecided: bool) -> bool:
    """Whether a client's pattern matches somewhere in a text, in bounded time: RE2 decides; a pattern that it does not support
    (such as one with look-ahead) is tried on short texts only, and gives `undecided` for others.
    """
    options = re2.Options()
    options.log_errors = False
    with contextlib.suppress(re2.error):
        return re2.compile(pattern, options).search(text) is not None
    if len(text) > _LONGEST_BACKTRACKING:
        return undecided
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            return re.search(pattern, text) is not None
    except (re.error, RecursionError, OverflowError):
        return undecided


def _check_pattern(validator: Any, pattern: str, instance: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not _matches(pattern, instance, undecided=True):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


_Checker: Any = validators.extend(Draft202012Validator, {"pattern": _check_pattern})  # type: ignore[no-untyped-call]


def _is_valid(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value matches a schema, whose patterns take bounded time; one with references outside it matches nothing."""
    plain = {name: part for name, part in schema.items() if name != "$schema"}
    try:
        return bool(_Checker(plain, registry=EMPTY_REGISTRY).is_valid(value))
    except Unresolvable:
        return False


# ---------------------------------------------------------------- values


class Unsatisfiable(Exception):
    """No value was found for a schema within bounds."""


def words_of(text: str) -> list[str]:
    """Lower-case words; identifiers are split at `_`, `-` and capitals."""
    return [word.lower() for word in _WORD.findall(text)]


class ValueMaker:
    """Makes a value for one schema from what a text offers: quotations, names, numbers, choices, each used once.

    With `optional` all properties near the root are filled, otherwise only those that are required or that the text mentions.
    `ignored` are lower-case words that are no names, such as those of the tool's own name.
    """

    def __init__(self, text: str, *, optional: bool, ignored: Sequence[str] = ()) -> None:
        self._optional = optional
        self._nodes = 0
        self._text = text = text[:READ_CHARACTERS].strip()
        self._words = frozenset(words_of(text))
        self._quoted = [next(filter(None, groups)) for groups in _QUOTED.findall(text)]
        rest = _QUOTED.sub(" ", text)
        self._numbers: list[int | float] = [float(n) if "." in n else int(n) for n in _NUMBER.findall(rest)]
        self._names: list[str] = []
        for sentence in _SENTENCE.split(rest):
            for found in _NAME.finditer(sentence):
                # The first word of a sentence is capital in any case.
                name = found.group() if sentence[: found.start()].strip() else found.group().partition(" ")[2]
                if name and name.lower() not in ignored:
                    self._names.append(name)

    def make(self, schema: Mapping[str, Any]) -> Any:
        """A value that matches the schema. Raises Unsatisfiable: none was found."""
        value = self._value(schema, "", 0, 0)
        if not _is_valid(value, schema):
            raise Unsatisfiable("no value matches the schema")
        return value

    def _value(self, schema: Mapping[str, Any], field: str, depth: int, variant: int) -> Any:
        """A value for a schema `depth` levels below the root; contradictions between its keywords are not noticed.

        `field` is the name of the property, empty for anything else. Variant 0 is what the text offers or the simplest
        value; higher numbers give others.
        """
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise Unsatisfiable("the schema asks for too many values")
        if "enum" in schema:
            choices = [each for each in schema["enum"] if _is_valid(each, schema)]
            if not choices:
                raise Unsatisfiable("no choice of an enum is valid")
            return ((self._mentioned(choices) if field else []) + choices)[variant % len(choices)]
        named = schema.get("type", ["string", "object", "array", "number"])
        # Null is the last resort near the root, and the simplest value far below it.
        kinds = sorted(
            [named] if isinstance(named, str) else named,
            key=lambda kind: (kind == "null") is (depth <= _OPTIONAL_DEPTH),
        )
        kind, variant = kinds[variant % len(kinds)], variant // len(kinds)
        for each in dict.fromkeys([kind, *kinds]):
            with contextlib.suppress(Unsatisfiable):
                return self._of_type(each, schema, field, depth, variant)
        raise Unsatisfiable("no type of the schema can be satisfied")

    def _of_type(self, kind: str, schema: Mapping[str, Any], field: str, depth: int, variant: int) -> Any:
        if field and variant == 0:
            offered = self._offered(field, kind, schema)
            for value in offered:
                if _is_valid(value, {**schema, "type": kind}):
                    offered.remove(value)
                    return value
        match kind:
            case "string":
                return _string(schema, self._text[:200] if field else "", variant)
            case "integer" | "number":
                return _number(schema, variant, kind)
            case "boolean":
                return variant % 2 == 1
            case "null":
                return None
            case "array":
                return self._array(schema, depth, variant)
            case _:
                return self._object(schema, depth, variant)

    def _offered(self, field: str, kind: str, schema: Mapping[str, Any]) -> list[Any]:
        """What the text offers for a field; what is used is removed from this list."""
        if kind == "string" and "pattern" in schema:
            tokens = [*self._quoted, *(token.strip(".,;:!?()") for token in self._text.split())]
            return [token for token in tokens if token and _matches(schema["pattern"], token, undecided=True)][:1]
        if kind == "string":
            whole = [self._text] if self._text and _WHOLE_TEXT.intersection(words_of(field)) else []
            return self._quoted or whole or self._names
        if kind == "array":
            items = schema.get("items", {})
            if "enum" in items:
                return [self._mentioned(items["enum"])]
            if items.get("type") == "string":
                return [list(self._quoted or self._names)]
            return [[number for number in self._numbers if "type" in items and _is_valid(number, items)]]
        return self._numbers if kind in ("integer", "number") else []

    def _mentioned(self, choices: Sequence[Any]) -> list[Any]:
        """Those choices that the text names."""
        text = self._text.lower()
        names = [(choice, str(choice).lower()) for choice in choices if isinstance(choice, str | int | float)]
        return [choice for choice, name in names if name and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)]

    def _array(self, schema: Mapping[str, Any], depth: int, variant: int) -> list[Any]:
        least, unique = int(schema.get("minItems", 0)), bool(schema.get("uniqueItems"))
        size = max(least, 1) if self._optional and depth < _OPTIONAL_DEPTH else least
        size = min(size, int(schema.get("maxItems", size)), _MAX_ITEMS)
        if least > size:
            raise Unsatisfiable(f"an array of {least} items is too long")
        made: list[Any] = []
        for at in range(size + _MAX_TRIES * unique):
            if len(made) == size:
                break
            item = self._value(schema.get("items", {}), "", depth + 1, variant + at)
            if not unique or _is_valid([*made, item], {"uniqueItems": True}):
                made.append(item)
        if len(made) < least:
            raise Unsatisfiable("not enough items can be made")
        return made

    def _object(self, schema: Mapping[str, Any], depth: int, variant: int) -> dict[str, Any]:
        properties: Mapping[str, Any] = schema.get("properties", {})
        additional = schema.get("additionalProperties", True)
        required = schema.get("required", ())
        wanted = [name for name in properties if name in required or self._is_filled(name, properties[name], depth)]
        made = {}
        for at, name in enumerate(dict.fromkeys([*wanted, *required])):
            part = properties.get(name, additional if isinstance(additional, Mapping) else {})
            try:
                made[name] = self._value(part, name, depth + 1, variant >> at)
            except Unsatisfiable:
                if name in required:
                    raise
        return made

    def _is_filled(self, name: str, schema: Mapping[str, Any], depth: int) -> bool:
        """Whether an optional property is filled."""
        if self._optional:
            return depth < _OPTIONAL_DEPTH
        if "enum" in schema:
            return bool(self._mentioned(schema["enum"]))
        return schema.get("type") in ("integer", "number") and self._words.issuperset(words_of(name))


class _PatternStrings(Rstr):
    """Strings that match a pattern, made in a bounded number of steps, because the pattern is the client's."""

    def __init__(self, seed: int) -> None:
        super().__init__(random.Random(seed))  # noqa: S311 - sample text, no secrets
        self.max_repeats = 0
        self._steps = 0

    def _handle_state(self, state: Any) -> Any:
        self._steps += 1
        if self._steps > _MAX_NODES:
            raise Unsatisfiable("the pattern takes too long")
        return super()._handle_state(state)

    def _handle_repeat(self, start_range: int, end_range: int, value: Any) -> str:
        times = self._random.randint(start_range, max(start_range, min(end_range, self.max_repeats)))
        return "".join(self._handle_state(state) for _ in range(times) for state in value)


def _string(schema: Mapping[str, Any], suggested: str, variant: int) -> str:
    least, most = int(schema.get("minLength", 0)), int(schema.get("maxLength", _MAX_LENGTH))
    if least > min(most, _MAX_LENGTH):
        raise Unsatisfiable("no string has that length")
    if "pattern" not in schema:
        mark = f" {variant}" if variant else ""
        text = (suggested or "sample")[: max(most - len(mark), 0)] + mark
        return text[:most].ljust(least, ".")
    pattern, strings = schema["pattern"], _PatternStrings(variant)
    for attempt in range(_MAX_TRIES):
        strings.max_repeats = 2 + attempt // 4
        try:
            with warnings.catch_warnings(action="ignore"):
                text = strings.xeger(pattern)
        except (re.error, RecursionError, OverflowError, KeyError, ValueError):
            break
        # A pattern that is not anchored leaves room for more text beside the match.
        for candidate in (text, text.ljust(least, "a"), text.rjust(least, "a")):
            if least <= len(candidate) <= most and _matches(pattern, candidate, undecided=False):
                return candidate
    raise Unsatisfiable(f"no string can be made for the pattern {pattern!r}")


def _number(schema: Mapping[str, Any], variant: int, kind: str) -> int | float:
    """The number within bounds that is nearest to 1, and its neighbours as variants."""
    low = max((Fraction(str(schema[key])) for key in ("minimum", "exclusiveMinimum") if key in schema), default=None)
    high = min((Fraction(str(schema[key])) for key in ("maximum", "exclusiveMaximum") if key in schema), default=None)
    step = Fraction(str(schema.get("multipleOf", 1)))
    if kind == "number" and "multipleOf" not in schema and low is not None and high is not None:
        step = min(step, (high - low) / 4) or step
    nearest = Fraction(1) if low is None else max(low, Fraction(1))
    first = math.floor((nearest if high is None else min(nearest, high)) / step)
    # 0, 1, -1, 2, -2, … steps away.
    numbers = ((first + (at + 1) // 2 * (1 if at % 2 else -1)) * step for at in range(2 * _MAX_TRIES))
    values = (int(number) if number.denominator == 1 else float(number) for number in numbers)
    found = list(islice((value for value in values if _is_valid(value, {**schema, "type": kind})), variant + 1))
    if not found:
        raise Unsatisfiable("no number is within the bounds")
    return found[variant % len(found)]
