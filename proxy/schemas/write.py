"""Writing a shape as a schema of a dialect; `docs/schemas.md` lists them.

Source of `anthropic`: `transform_schema` of the `anthropic` package, and the structured outputs of Anthropic's Messages API.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from proxy.schemas.describe import bounds_texts, cut, describe, names, quoted, sentence
from proxy.schemas.document import Document
from proxy.schemas.shapes import ALL_TYPES, ANYTHING, BOUNDS, TYPES, Objects, Shape, intersect, of_values
from proxy.schemas.values import MAX_INTEGER, Json, JsonObject, Memo, TooLarge, is_integer, json_bytes, type_of

Dialect = Literal["documented", "full", "anthropic"]
"""What a compiled schema may use."""

_SAFE_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}\Z")
"""Property names that Anthropic and Bedrock accept."""
_MAX_NAME = 64
_MAX_NOTES = 600
"""Characters of notes that one description takes."""
_ANTHROPIC_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
_SUBSCHEMAS = ("properties", "additionalProperties", "items", "anyOf")


@dataclass(slots=True)
class Written:
    """A shape, kept so that its id stays its own, as a schema whose parts may be shared with others; what the schema does not say; and its
    bytes as compact JSON, a few more at most.
    """

    shape: Shape
    schema: JsonObject
    notes: list[str] = field(default_factory=list)
    size: int = 0


@dataclass(slots=True)
class Writer:
    """Writes shapes. A shape that occurs twice is written once, and the two places share the object. Without `bounds`, lengths, bounds,
    counts and patterns are described. `aliases`, which differ from the property names of the client's document, and `json_texts` become
    those of `CompiledSchema`.
    """

    dialect: Dialect
    bounds: bool
    max_bytes: int
    memo: Memo
    document: Document
    aliases: dict[str, str] = field(default_factory=dict)
    json_texts: dict[int, JsonObject] = field(default_factory=dict)
    _known: dict[int, Written] = field(default_factory=dict)
    _sent: dict[str, str] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)

    def write(self, shape: Shape) -> Written:
        """The shape as a schema. Raises TooLarge: it is over `max_bytes`, or takes too many steps."""
        draft = self._known.get(id(shape))
        if draft is None:
            self.memo.spend()
            draft = Written(shape, {"title": shape.title, "description": None})
            schema = draft.schema
            if self.dialect == "anthropic":
                self._closed(shape, draft)
            elif shape.values is not None and _writable(shape.values):
                schema["type"] = _types(shape)
                constant = self.dialect == "full" and len(shape.values) == 1
                schema.update({"const": shape.values[0]} if constant else {"enum": list(shape.values)})
            else:
                self._parts(shape, draft)
            notes = cut(" ".join(dict.fromkeys((*shape.notes, *draft.notes))), _MAX_NOTES)
            schema["description"] = "\n".join(filter(None, (shape.description, notes)))
            for keyword in ("title", "description"):
                if not schema[keyword]:
                    del schema[keyword]
            own = {keyword: None if keyword in _SUBSCHEMAS else value for keyword, value in schema.items()}
            draft.size += len(json_bytes([own, *schema.get("properties", ())]))
            self._known[id(shape)] = draft
        if draft.size > self.max_bytes:
            raise TooLarge
        return draft

    def _inner(self, shape: Shape, draft: Written) -> JsonObject:
        written = self.write(shape)
        draft.size += written.size + 2
        return written.schema

    def _parts(self, shape: Shape, draft: Written) -> None:
        """What a shape says of each type."""
        schema, items = draft.schema, shape.items
        if shape.types != ALL_TYPES or "integer" in shape.bounds:
            schema["type"] = _types(shape)
        bounds = {
            keyword: shape.bounds[keyword]
            for keyword, (kind, _, _) in BOUNDS.items()
            if keyword in shape.bounds and kind in shape.types
        }
        if "array" in shape.types:
            if items is not None and items.empty:
                bounds["maxItems"], items = 0, None
            if self.dialect == "anthropic" or (items is not None and items != ANYTHING):
                schema["items"] = self._inner(ANYTHING if items is None else items, draft)
        if bounds:
            self._bounds(bounds, draft)
        if "object" in shape.types:
            self._objects(shape.objects, draft, typed=shape.types != ALL_TYPES)
        if shape.options:
            schema["anyOf"] = [self._inner(option, draft) for option in shape.options]

    def _bounds(self, bounds: dict[str, Any], draft: Written) -> None:
        """Bounds as keywords where the dialect has them, else as notes."""
        schema = draft.schema
        said: dict[str, Any] = {}
        for keyword, bound in bounds.items():
            match keyword:
                case "integer":
                    pass  # `_types` says it
                case "format":
                    known = self.dialect == "full" or (self.dialect == "anthropic" and bound in _ANTHROPIC_FORMATS)
                    (schema if known else said)[keyword] = bound
                case "minItems" if self.dialect == "anthropic" and bound == 1:
                    schema[keyword] = 1
                case _ if not self.bounds or self.dialect == "anthropic" or not _writable(bound):
                    said[keyword] = bound
                case "pattern":
                    plain = next((source for source in bound if source in self.document.plain_patterns), None)
                    said[keyword] = tuple(source for source in bound if source != plain)
                    schema.update({} if plain is None else {keyword: plain})
                case "minimum" | "maximum":
                    number, flag = bound
                    schema[f"exclusive{keyword.title()}" if flag is (keyword == "minimum") else keyword] = number
                case _:
                    schema[keyword] = bound
        if said:
            draft.notes += [sentence(text) for kind in TYPES for text in bounds_texts(said, kind)]

    def _objects(self, objects: Objects, draft: Written, *, typed: bool) -> None:
        """`typed`: the schema names its type, so that what is said of objects is not all it says."""
        schema, others = draft.schema, objects.others
        closed = self.dialect == "anthropic" or (others is not None and others.empty)
        declared = dict.fromkeys((*objects.properties, *objects.required))
        written: JsonObject = {}
        for name in declared:
            if not objects.at(name).empty:
                alias = self._sent_name(name)
                member = self._inner(objects.at(name), draft)
                if alias != name:
                    text = f"Named {quoted(name, 120)}."
                    described = f"{member['description']}\n{text}" if "description" in member else text
                    is_json_text = id(member) in self.json_texts
                    member = {**member, "description": described}
                    self.json_texts.update({id(member): member} if is_json_text else {})
                    draft.size += 20 + len(json_bytes(text))
                written[alias] = member
        forbidden = [name for name in declared if objects.at(name).empty]
        if forbidden and not closed:
            draft.notes.append(f"Without {names(forbidden)}.")
        if written or (closed and typed):
            schema["properties"] = written
        if objects.required:
            schema["required"] = [self._sent_name(name) for name in objects.required]
        if closed:
            schema["additionalProperties"] = False
        elif others is not None and others != ANYTHING:
            schema["additionalProperties"] = self._inner(others, draft)
        elif typed and not written:
            schema["additionalProperties"] = True

    def _sent_name(self, name: str) -> str:
        """The name itself where it is safe, else an alias that no other property of the whole schema has."""
        if _SAFE_NAME.match(name):
            return name
        if name not in self._sent:
            plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
            stem = re.sub(r"[^a-zA-Z0-9_.-]+", "_", plain).strip("_")[:_MAX_NAME] or "property"
            alias, number = stem, self._numbers.get(stem, 1)
            while alias in self.document.names or alias in self.aliases:
                number += 1
                alias = f"{stem[: _MAX_NAME - len(str(number)) - 1]}_{number}"
            self._numbers[stem] = number
            self._sent[name] = alias
            self.aliases[alias] = name
        return self._sent[name]

    def _closed(self, shape: Shape, draft: Written) -> None:
        """An object without declared properties could only be empty, so it is asked for as JSON text, as is any value."""
        bare = replace(shape, title=None, description=None, notes=())
        objects = shape.objects
        if shape.options:
            base = replace(bare, options=())
            options = [intersect(base, option, self.memo) for option in shape.options]
            self._alternatives([option for option in options if not option.empty], draft)
        elif shape.values is not None:
            scalars = [value for value in shape.values if not isinstance(value, dict | list) and _writable(value)]
            if len(scalars) == len(shape.values):
                draft.schema["enum"] = scalars
            else:
                self._alternatives([of_values(scalars)] if scalars else [], draft, f"One of: {describe(shape)}.")
        elif shape.types == ALL_TYPES:
            text = describe(bare)
            start = "Any JSON value" if text == "any" else f"Meant: {text}"
            parts = [replace(bare, types=frozenset({name})) for name in TYPES[3:]]
            self._alternatives(parts, draft, f"{start}; an object or array as JSON text.")
        elif len(shape.types) > 1:
            self._alternatives([replace(bare, types=frozenset({name})) for name in TYPES if name in shape.types], draft)
        elif (
            shape.types == {"object"}
            and (objects.others is None or not objects.others.empty)
            and all(member.empty for member in objects.properties.values())
            and not objects.required
        ):
            text = describe(Shape(types=shape.types, objects=objects))
            draft.schema["type"] = "string"
            draft.notes.append(f"A JSON object, as text{'' if text == 'object' else f': {text}'}.")
            self.json_texts[id(draft.schema)] = draft.schema
        else:
            self._parts(shape, draft)

    def _alternatives(self, shapes: Sequence[Shape], draft: Written, text: str | None = None) -> None:
        """`text`: what is described so may be given as JSON text too."""
        members = [self._inner(shape, draft) for shape in shapes]
        if text:
            members.append({"type": "string", "description": text})
            self.json_texts[id(members[-1])] = members[-1]
            draft.size += 40 + len(json_bytes(text))
        draft.schema["anyOf"] = members


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
    return not isinstance(value, int) or -MAX_INTEGER <= value <= MAX_INTEGER
