"""Writing a shape as a schema of a dialect. Source: contract narrative.md, "What output_format_schema may use"."""

import json
from dataclasses import dataclass, field

from proxy.schemas.describe import array_bounds, cut, names, number_bounds, quoted, string_bounds
from proxy.schemas.patterns import pattern
from proxy.schemas.read import array_counts, numbers, strings
from proxy.schemas.shapes import ALL_TYPES, ANYTHING, TYPES, Arrays, Bound, Numbers, Objects, Shape, Strings
from proxy.schemas.values import Json, JsonObject, TooLarge, is_integer, type_of

_MAX_INTEGER = 2**63 - 1
"""What JSON writers hold exactly."""


@dataclass(frozen=True, slots=True)
class Written:
    """A shape as a schema.

    Attributes:
        schema: the schema; parts of it may be shared with others.
        size: its bytes as compact JSON, a few more at most.
        exact: it takes no more values than the schema that the shape was read from.
        shape: the shape.
    """

    schema: JsonObject
    size: int
    exact: bool
    shape: Shape


@dataclass(slots=True)
class _Draft:
    """A schema on the way: what was written, what is left for words."""

    body: JsonObject = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    size: int = 2
    exact: bool = True

    def put(self, keyword: str, value: Json) -> None:
        self.body[keyword] = value
        self.size += len(keyword) + 4 + len(json.dumps(value, ensure_ascii=False).encode())

    def tell(self, note: str) -> None:
        self.notes.append(note)
        self.exact = False


@dataclass(slots=True)
class Writer:
    """Writes shapes. A shape that occurs twice is written once, and the two places share the object.

    Attributes:
        full: `anyOf`, `const` and `format` may be written too.
        note_chars: how many characters of notes a description takes.
        max_bytes: the size beyond which writing stops.
    """

    full: bool
    note_chars: int
    max_bytes: int
    _known: dict[int, Written] = field(default_factory=dict)

    def write(self, shape: Shape) -> Written:
        """The shape as a schema.

        Raises:
            TooLarge: it is over `max_bytes`.
        """
        known = self._known.get(id(shape))
        if known is None:
            known = self._known[id(shape)] = self._new(shape)
        if known.size > self.max_bytes:
            raise TooLarge
        return known

    def _new(self, shape: Shape) -> Written:
        draft = _Draft(exact=shape.exact)
        head: JsonObject = {"title": shape.title} if shape.title else {}
        if shape.values is not None and _writable(shape.values):
            self._values(shape, draft)
        else:
            self._parts(shape, draft)
        notes = cut(" ".join(dict.fromkeys((*shape.notes, *draft.notes))), self.note_chars)
        if shape.description or notes:
            head["description"] = "\n".join(filter(None, (shape.description, notes)))
        size = draft.size + (len(json.dumps(head, ensure_ascii=False).encode()) if head else 0)
        return Written({**head, **draft.body}, size, draft.exact, shape)

    def _values(self, shape: Shape, draft: _Draft) -> None:
        values = list(shape.values or ())
        draft.put("type", _types(shape))
        if self.full and len(values) == 1:
            draft.put("const", values[0])
        else:
            draft.put("enum", values)

    def _parts(self, shape: Shape, draft: _Draft) -> None:
        draft.exact = draft.exact and shape.values is None
        if shape.types != ALL_TYPES or shape.numbers.integer:
            draft.put("type", _types(shape))
        if "string" in shape.types:
            self._strings(shape.strings, draft)
        if "number" in shape.types:
            _numbers(shape.numbers, draft)
        if "array" in shape.types:
            self._arrays(shape.arrays, draft)
        if "object" in shape.types:
            self._objects(shape.objects, draft, alone=shape.types != ALL_TYPES)
        if shape.options:
            draft.body["anyOf"] = [self._inner(option, draft) for option in shape.options]

    def _inner(self, shape: Shape, draft: _Draft) -> JsonObject:
        written = self.write(shape)
        draft.size += written.size + 2
        draft.exact = draft.exact and written.exact
        return written.schema

    def _strings(self, strings: Strings, draft: _Draft) -> None:
        _bounds(draft, "minLength", strings.min_length, "maxLength", strings.max_length)
        plain = [source for source in strings.patterns if pattern(source).plain][:1]
        for source in plain:
            draft.put("pattern", source)
        for source in strings.patterns:
            if source not in plain:
                draft.tell(f"Must match {cut(source, 200)}.")
        if strings.format and self.full:
            draft.put("format", strings.format)
        elif strings.format:
            draft.tell(f"Format: {cut(strings.format, 60)}.")

    def _arrays(self, arrays: Arrays, draft: _Draft) -> None:
        closed = arrays.items is not None and arrays.items.empty
        if arrays.items is not None and not closed and arrays.items != ANYTHING:
            draft.body["items"] = self._inner(arrays.items, draft)
        _bounds(draft, "minItems", arrays.min_items, "maxItems", 0 if closed else arrays.max_items)
        if arrays.unique:
            draft.put("uniqueItems", True)

    def _objects(self, objects: Objects, draft: _Draft, *, alone: bool) -> None:
        """Args:
        alone: the schema names the type, so that what is keywords of objects is not the only thing keywords.
        """
        declared = dict.fromkeys((*objects.properties, *objects.required))
        closed = objects.others is not None and objects.others.empty
        written: JsonObject = {}
        for name in declared:
            if not objects.at(name).empty:
                written[name] = self._inner(objects.at(name), draft)
                draft.size += len(json.dumps(name, ensure_ascii=False).encode()) + 2
        forbidden = [name for name in declared if name not in written]
        if forbidden and not closed:
            draft.tell(f"Without {names(forbidden)}.")
        if written or (closed and alone):
            draft.body["properties"] = written
        if objects.required:
            draft.put("required", list(objects.required))
        if closed:
            draft.put("additionalProperties", False)
        elif objects.others is not None and objects.others != ANYTHING:
            draft.body["additionalProperties"] = self._inner(objects.others, draft)
        elif alone and not written:
            draft.put("additionalProperties", True)


def _numbers(numbers: Numbers, draft: _Draft) -> None:
    _bound(draft, "minimum", "exclusiveMinimum", numbers.lower)
    _bound(draft, "maximum", "exclusiveMaximum", numbers.upper)
    if numbers.multiple_of is not None:
        _put_number(draft, "multipleOf", numbers.multiple_of)


def _bound(draft: _Draft, inclusive: str, exclusive: str, bound: Bound | None) -> None:
    if bound is not None:
        _put_number(draft, exclusive if bound[1] else inclusive, bound[0])


def _put_number(draft: _Draft, keyword: str, number: int | float) -> None:
    if _writable(number):
        draft.put(keyword, number)
    else:
        draft.tell(f"{keyword}: {quoted(number)}.")


def _bounds(draft: _Draft, low: str, least: int, high: str, most: int | None) -> None:
    if least > _MAX_INTEGER:
        draft.tell(f"{low}: {quoted(least)}.")
    elif least > 0:
        draft.put(low, least)
    if most is not None and most <= _MAX_INTEGER:
        draft.put(high, most)


def _types(shape: Shape) -> Json:
    numbers = [value for value in shape.values or () if type_of(value) == "number"]
    whole = shape.numbers.integer or (bool(numbers) and all(map(is_integer, numbers)))
    named = [("integer" if whole else "number") if kind == "number" else kind for kind in TYPES if kind in shape.types]
    return named[0] if len(named) == 1 else named


def _writable(value: Json) -> bool:
    """Whether every writer of JSON keeps the numbers in a value as they are."""
    if isinstance(value, list | tuple):
        return all(map(_writable, value))
    if isinstance(value, dict):
        return all(map(_writable, value.values()))
    return not isinstance(value, int) or -_MAX_INTEGER <= value <= _MAX_INTEGER


BOUNDS = frozenset(
    {"minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    | {"minItems", "maxItems", "uniqueItems"}
)


def move_bounds(schema: JsonObject, known: dict[int, JsonObject]) -> JsonObject:
    """The schema with its lengths, bounds, counts and patterns as words in descriptions; itself where it has none.

    Args:
        known: results so far by id(); a schema that occurs twice is converted once.
    """
    if id(schema) not in known:
        known[id(schema)] = _moved(
            {keyword: _inside(keyword, value, known) for keyword, value in schema.items()}, schema
        )
    return known[id(schema)]


def _inside(keyword: str, value: object, known: dict[int, JsonObject]) -> object:
    match keyword, value:
        case "properties", dict():
            return {name: move_bounds(member, known) for name, member in value.items()}
        case "anyOf", list():
            return [move_bounds(member, known) for member in value]
        case (("items" | "additionalProperties"), dict()):
            return move_bounds(value, known)
        case _:
            return value


def _moved(schema: JsonObject, before: JsonObject) -> JsonObject:
    bounds = {keyword: value for keyword, value in schema.items() if keyword in BOUNDS}
    if not bounds:
        return before if schema == before else schema
    words = ", ".join(
        [*string_bounds(strings(bounds)), *number_bounds(numbers(bounds)), *array_bounds(array_counts(bounds))]
    )
    description = "\n".join(filter(None, (schema.get("description"), f"{words[:1].upper()}{words[1:]}.")))
    rest = {keyword: value for keyword, value in schema.items() if keyword not in BOUNDS | {"title", "description"}}
    head = {"title": schema["title"]} if "title" in schema else {}
    return {**head, "description": description, **rest}
