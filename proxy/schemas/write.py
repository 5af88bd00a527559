"""Writing a shape as a schema of a dialect.

    documented   what contract narrative.md lists under "What output_format_schema may use"
    full         also `anyOf`, `const` and `format`
    anthropic    what Anthropic's structured outputs accept: one type a schema, closed objects, `anyOf`, no bounds

Source of the last: `transform_schema` of the `anthropic` package, and the structured outputs of Anthropic's Messages API.
"""

import re
import unicodedata
from collections.abc import Set
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from proxy.schemas.describe import bounds_texts, cut, describe, names, quoted, sentence
from proxy.schemas.document import Document
from proxy.schemas.read import bounds_from
from proxy.schemas.shapes import ALL_TYPES, ANYTHING, BOUNDS, TYPES, Objects, Shape, bounds_of, intersect, of_values
from proxy.schemas.values import Json, JsonObject, JsonType, Memo, TooLarge, is_integer, json_bytes, type_of

Dialect = Literal["documented", "full", "anthropic"]
"""What a compiled schema may use."""

_MAX_INTEGER = 2**63 - 1
"""What JSON writers hold exactly."""
_SAFE_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}\Z")
"""Property names that Anthropic and Bedrock accept."""
_MAX_NAME = 64


@dataclass(slots=True)
class Written:
    """A shape as a schema.

    Attributes:
        shape: the shape.
        exact: the schema accepts no more values than the one that the shape was read from.
        schema: the schema; parts of it may be shared with others.
        notes: what it does not say.
        size: its bytes as compact JSON, a few more at most.
    """

    shape: Shape
    exact: bool
    schema: JsonObject = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    size: int = 2

    def put(self, keyword: str, value: Json) -> None:
        """A keyword, its size counted; subschemas are put into `schema` directly, as their size is known."""
        self.schema[keyword] = value
        self.size += len(keyword) + 4 + _size(value)

    def put_number(self, keyword: str, number: int | float) -> None:
        """A number, or a note where some writers of JSON would change it."""
        if _writable(number):
            self.put(keyword, number)
        else:
            self.add_note(f"{keyword}: {quoted(number)}.")

    def add_bounds(self, texts: list[str]) -> None:
        """Notes for bounds as `bounds_texts` gives them, each a sentence."""
        for text in texts:
            self.add_note(sentence(text))

    def add_note(self, note: str) -> None:
        """What the schema does not say, so that it accepts more."""
        self.notes.append(note)
        self.exact = False


def _size(value: Json) -> int:
    return len(json_bytes(value))


@dataclass(slots=True)
class Aliases:
    """Property names that are safe, and unique in the whole schema. `names`: alias → the client's name."""

    names: dict[str, str] = field(default_factory=dict)
    _known: dict[str, str] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)

    def of(self, name: str, taken: Set[str]) -> str:
        """The name itself where it is safe, else an alias that differs from those taken."""
        if _SAFE_NAME.match(name):
            return name
        if name not in self._known:
            plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
            stem = re.sub(r"[^a-zA-Z0-9_.-]+", "_", plain).strip("_")[:_MAX_NAME] or "property"
            alias, number = stem, self._numbers.get(stem, 1)
            while alias in taken or alias in self.names:
                number += 1
                alias = f"{stem[: _MAX_NAME - len(str(number)) - 1]}_{number}"
            self._numbers[stem] = number
            self._known[name] = alias
            self.names[alias] = name
        return self._known[name]


@dataclass(slots=True)
class Writer:
    """Writes shapes. A shape that occurs twice is written once, and the two places share the object.

    Attributes:
        dialect: what may be written.
        note_chars: how many characters of notes a description takes.
        max_bytes: the size beyond which writing stops.
        memo: steps left.
        document: the client's schema, whose property names an alias must differ from.
        aliases: of property names that upstreams refuse.
        json_texts: id() of the schemas written for values that are asked for as JSON text.
    """

    dialect: Dialect
    note_chars: int
    max_bytes: int
    memo: Memo
    document: Document
    aliases: Aliases = field(default_factory=Aliases)
    json_texts: dict[int, JsonObject] = field(default_factory=dict)
    _known: dict[int, Written] = field(default_factory=dict)

    def write(self, shape: Shape) -> Written:
        """The shape as a schema.

        Raises:
            TooLarge: it is over `max_bytes`, or takes too many steps.
        """
        known = self._known.get(id(shape))
        if known is None:
            self.memo.spend()
            known = self._known[id(shape)] = self._new(shape)
        if known.size > self.max_bytes:
            raise TooLarge
        return known

    def _new(self, shape: Shape) -> Written:
        draft = Written(shape, shape.exact)
        if self.dialect == "anthropic":
            self._closed(shape, draft)
        elif shape.values is not None and _writable(shape.values):
            self._values(shape, draft)
        else:
            self._parts(shape, draft)
        head: JsonObject = {"title": shape.title} if shape.title else {}
        notes = cut(" ".join(dict.fromkeys((*shape.notes, *draft.notes))), self.note_chars)
        if shape.description or notes:
            head["description"] = "\n".join(filter(None, (shape.description, notes)))
        if head:
            draft.size += _size(head)
        is_text = id(draft.schema) in self.json_texts
        draft.schema = {**head, **draft.schema}
        if is_text:
            self.json_texts[id(draft.schema)] = draft.schema
        return draft

    def _inner(self, shape: Shape, draft: Written) -> JsonObject:
        written = self.write(shape)
        draft.size += written.size + 2
        draft.exact = draft.exact and written.exact
        return written.schema

    # ------------------------------------------------------------ documented and full

    def _values(self, shape: Shape, draft: Written) -> None:
        values = list(shape.values or ())
        draft.put("type", _types(shape))
        if self.dialect == "full" and len(values) == 1:
            draft.put("const", values[0])
        else:
            draft.put("enum", values)

    def _parts(self, shape: Shape, draft: Written) -> None:
        draft.exact = draft.exact and shape.values is None
        if shape.types != ALL_TYPES or "integer" in shape.bounds:
            draft.put("type", _types(shape))
        for keyword, (kind, _, _) in BOUNDS.items() if shape.bounds else ():
            if keyword in shape.bounds and kind in shape.types and kind != "array":
                self._bound(keyword, shape.bounds[keyword], draft)
        if "array" in shape.types:
            self._arrays(shape, draft)
        if "object" in shape.types:
            self._objects(shape.objects, draft, typed=shape.types != ALL_TYPES)
        if shape.options:
            draft.schema["anyOf"] = [self._inner(option, draft) for option in shape.options]

    def _bound(self, keyword: str, bound: Any, draft: Written) -> None:
        match keyword:
            case "pattern":
                plain = next((source for source in bound if source in self.document.plain_patterns), None)
                if plain is not None:
                    draft.put("pattern", plain)
                for source in bound:
                    if source != plain:
                        draft.add_note(f"Must match {cut(source, 200)}.")
            case "format" if self.dialect != "full":
                draft.add_note(f"Format: {cut(bound, 60)}.")
            case "minimum" | "maximum":
                number, flag = bound
                exclusive = flag is (keyword == "minimum")
                draft.put_number(f"exclusive{keyword.title()}" if exclusive else keyword, number)
            case "minLength" | "minItems" | "multipleOf":
                draft.put_number(keyword, bound)
            case "maxLength" | "maxItems" if bound > _MAX_INTEGER:
                pass  # nothing is as large
            case _ if keyword != "integer":
                draft.put(keyword, bound)

    def _arrays(self, shape: Shape, draft: Written) -> None:
        bounds = bounds_of(shape, "array")
        if shape.items is not None and shape.items.empty:
            bounds = {**bounds, "maxItems": 0}
        elif shape.items is not None and shape.items != ANYTHING:
            draft.schema["items"] = self._inner(shape.items, draft)
        for keyword in BOUNDS:
            if keyword in bounds:
                self._bound(keyword, bounds[keyword], draft)

    def _objects(self, objects: Objects, draft: Written, *, typed: bool) -> None:
        """`typed`: the schema names its type, so that what is said of objects is not all it says."""
        closed = objects.others is not None and objects.others.empty
        written, forbidden = self._properties(objects, draft)
        if forbidden and not closed:
            draft.add_note(f"Without {names(forbidden)}.")
        if written or (closed and typed):
            draft.schema["properties"] = written
        if objects.required:
            draft.put("required", [self.aliases.of(name, self.document.names) for name in objects.required])
        if closed:
            draft.put("additionalProperties", False)
        elif objects.others is not None and objects.others != ANYTHING:
            draft.schema["additionalProperties"] = self._inner(objects.others, draft)
        elif typed and not written:
            draft.put("additionalProperties", True)

    def _properties(self, objects: Objects, draft: Written) -> tuple[JsonObject, list[str]]:
        """The declared properties, and the names of those that may not be there."""
        declared = dict.fromkeys((*objects.properties, *objects.required))
        written: JsonObject = {}
        for name in declared:
            if not objects.at(name).empty:
                alias = self.aliases.of(name, self.document.names)
                schema = self._inner(objects.at(name), draft)
                written[alias] = schema if alias == name else self._with_name(schema, name)
                draft.size += _size(name) + 2 + (0 if alias == name else _size(name) + 40)
        return written, [name for name in declared if objects.at(name).empty]

    def _with_name(self, schema: JsonObject, name: str) -> JsonObject:
        """A property's schema with the name that the client gave it."""
        text = f"Named {quoted(name, 120)}."
        description = f"{schema['description']}\n{text}" if "description" in schema else text
        named = {**schema, "description": description}
        if id(schema) in self.json_texts:
            self.json_texts[id(named)] = named
        return named

    # ------------------------------------------------------------ anthropic

    def _closed(self, shape: Shape, draft: Written) -> None:
        bare = replace(shape, title=None, description=None, notes=())
        if shape.options:
            base = replace(bare, options=())
            options = [intersect(base, option, self.memo) for option in shape.options]
            self._alternatives([option for option in options if not option.empty], draft)
        elif shape.values is not None:
            scalars = [value for value in shape.values if not isinstance(value, dict | list)]
            if len(scalars) == len(shape.values) and _writable(shape.values):
                draft.put("enum", scalars)
            else:
                draft.exact = False
                scalar = of_values(value for value in scalars if _writable(value))
                self._alternatives([scalar] if scalar.values else [], draft, f"One of: {describe(shape)}.")
        elif len(shape.types) > 1:
            text, types, note = describe(bare), shape.types, None
            if types == ALL_TYPES:
                start = "Any JSON value" if text == "any" else f"Meant: {text}"
                types, note = frozenset({"number", "boolean", "null"}), f"{start}; an object or array as JSON text."
            parts = [replace(bare, types=frozenset({name})) for name in TYPES if name in types]
            self._alternatives(parts, draft, note)
        else:
            self._of_one_type(shape, next(iter(shape.types), "null"), draft)

    def _alternatives(self, shapes: list[Shape], draft: Written, text: str | None = None) -> None:
        """`text`: what is described so may be given as JSON text too."""
        draft.schema["anyOf"] = [self._inner(shape, draft) for shape in shapes]
        if text:
            draft.schema["anyOf"].append(self._json_text(text))
            draft.size += _size(text) + 40

    def _json_text(self, note: str) -> JsonObject:
        schema: JsonObject = {"type": "string", "description": note}
        self.json_texts[id(schema)] = schema
        return schema

    def _of_one_type(self, shape: Shape, name: JsonType, draft: Written) -> None:
        match name:
            case "array":
                self._closed_array(shape, draft)
            case "object":
                self._closed_object(shape, draft)
            case _:
                bounds = shape.bounds
                draft.put("type", _types(shape))
                if name == "string" and bounds.get("format") in _ANTHROPIC_FORMATS:
                    draft.put("format", bounds["format"])
                    bounds = {keyword: bound for keyword, bound in bounds.items() if keyword != "format"}
                draft.add_bounds(bounds_texts(bounds, name))

    def _closed_array(self, shape: Shape, draft: Written) -> None:
        draft.put("type", "array")
        empty = shape.items is not None and shape.items.empty
        draft.schema["items"] = self._inner(ANYTHING if shape.items is None or empty else shape.items, draft)
        bounds = dict(bounds_of(shape, "array"))
        if bounds.get("minItems") == 1:
            draft.put("minItems", 1)
            if "maxItems" not in bounds:
                del bounds["minItems"]
        draft.add_bounds(["without items"] if empty else bounds_texts(bounds, "array"))

    def _closed_object(self, shape: Shape, draft: Written) -> None:
        """An object without declared properties could only be empty, so it is asked for as JSON text."""
        objects = shape.objects
        closed = objects.others is not None and objects.others.empty
        if not closed and all(member.empty for member in objects.properties.values()) and not objects.required:
            text = describe(Shape(types=shape.types, objects=objects))
            draft.schema = self._json_text("")
            del draft.schema["description"]
            draft.size += 20
            draft.add_bounds([f"a JSON object, as text{'' if text == 'object' else f': {text}'}"])
            return
        draft.put("type", "object")
        written, _ = self._properties(objects, draft)
        draft.schema["properties"] = written
        if objects.required:
            draft.put("required", [self.aliases.of(name, self.document.names) for name in objects.required])
        draft.put("additionalProperties", False)


_ANTHROPIC_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)


def _types(shape: Shape) -> Json:
    numbers = [value for value in shape.values or () if type_of(value) == "number"]
    whole = "integer" in shape.bounds or (bool(numbers) and all(map(is_integer, numbers)))
    named = [("integer" if whole else "number") if name == "number" else name for name in TYPES if name in shape.types]
    return named[0] if len(named) == 1 else named


def _writable(value: Json) -> bool:
    """Whether every writer of JSON keeps the numbers in a value as they are."""
    if isinstance(value, list | tuple):
        return all(map(_writable, value))
    if isinstance(value, dict):
        return all(map(_writable, value.values()))
    return not isinstance(value, int) or -_MAX_INTEGER <= value <= _MAX_INTEGER


# ---------------------------------------------------------------- for models that refuse bounds

_BOUNDS = frozenset(
    {"minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    | {"minItems", "maxItems", "uniqueItems"}
)


def move_bounds(schema: JsonObject, known: dict[int, JsonObject]) -> JsonObject:
    """The schema with its lengths, bounds, counts and patterns as words in descriptions; itself where it has none.

    Args:
        known: results so far by id(); a schema that occurs twice is converted once.
    """
    if id(schema) not in known:
        moved = {keyword: _inside(keyword, value, known) for keyword, value in schema.items()}
        known[id(schema)] = schema if moved == schema and not schema.keys() & _BOUNDS else _moved(moved)
    return known[id(schema)]


def _inside(keyword: str, value: Json, known: dict[int, JsonObject]) -> Json:
    match keyword:
        case "properties":
            return {name: move_bounds(member, known) for name, member in value.items()}
        case "anyOf":
            return [move_bounds(member, known) for member in value]
        case "items" | "additionalProperties" if isinstance(value, dict):
            return move_bounds(value, known)
        case _:
            return value


def _moved(schema: JsonObject) -> JsonObject:
    bounds = {keyword: value for keyword, value in schema.items() if keyword in _BOUNDS}
    if not bounds:
        return schema
    kinds: tuple[JsonType, ...] = ("string", "number", "array")
    texts = [text for kind in kinds for text in bounds_texts(bounds_from(bounds), kind)]
    description = "\n".join(filter(None, (schema.get("description"), sentence(", ".join(texts)))))
    rest = {keyword: value for keyword, value in schema.items() if keyword not in _BOUNDS | {"title", "description"}}
    head = {"title": schema["title"]} if "title" in schema else {}
    return {**head, "description": description, **rest}
