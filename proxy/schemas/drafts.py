"""The five drafts of JSON Schema: which keywords each has, what form their values must have, and where subschemas stand.

The forms are the metaschemas as one table. Checking them is a walk of our own, not a run of the metaschema: it takes a tenth of the time,
cannot overflow the stack, and its messages name the path and the form expected. Annotations (`title`, `examples`, …) of a wrong form
are ignored, as they constrain no value.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema
import referencing.jsonschema as specs
from jsonschema.protocols import Validator
from referencing import Specification

from proxy.schemas.patterns import BadPattern, pattern
from proxy.schemas.values import Json, Path, SchemaError, identity, is_integer


@dataclass(frozen=True, slots=True)
class Draft:
    """One draft.

    Attributes:
        name: as it stands in the `$schema` URI, such as `draft-07`.
        spec: how `referencing` reads ids and anchors in it.
        validator: the checker of the `jsonschema` library for it.
        rank: 4, 6, 7, 2019 or 2020.
        companions: keywords that the library reads together with another, and does not list.
    """

    name: str
    spec: Specification[Any]
    validator: type[Validator]
    rank: int
    companions: frozenset[str]

    def knows(self, keyword: str) -> bool:
        """Whether the draft gives the keyword a meaning for values; `nullable` (OpenAPI) has one in all."""
        return keyword in self.validator.VALIDATORS or keyword in self.companions

    @property
    def ref_stands_alone(self) -> bool:
        """Up to draft 7, whatever stands beside a `$ref` is ignored."""
        return self.rank <= 7

    def keywords(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The keywords of a schema that have a meaning for values."""
        if self.ref_stands_alone and "$ref" in schema:
            return {"$ref": schema["$ref"]}
        keywords = {keyword: value for keyword, value in schema.items() if self.knows(keyword)}
        if "if" not in keywords:
            keywords.pop("then", None)
            keywords.pop("else", None)
        return keywords


_ALL = frozenset({"nullable"})
_EXCLUSIVE = frozenset({"exclusiveMinimum", "exclusiveMaximum"})
_BRANCHES = frozenset({"then", "else"})
_COUNTS = frozenset({"minContains", "maxContains"})

LATEST = Draft("draft/2020-12", specs.DRAFT202012, jsonschema.Draft202012Validator, 2020, _ALL | _BRANCHES | _COUNTS)
DRAFTS = (
    Draft("draft-04", specs.DRAFT4, jsonschema.Draft4Validator, 4, _ALL | _EXCLUSIVE),
    Draft("draft-06", specs.DRAFT6, jsonschema.Draft6Validator, 6, _ALL),
    Draft("draft-07", specs.DRAFT7, jsonschema.Draft7Validator, 7, _ALL | _BRANCHES),
    Draft("draft/2019-09", specs.DRAFT201909, jsonschema.Draft201909Validator, 2019, _ALL | _BRANCHES | _COUNTS),
    LATEST,
)


def draft_named(uri: object) -> Draft | None:
    """The draft that a `$schema` names, whatever its scheme and trailing `#`; None when it names none of the five."""
    if not isinstance(uri, str):
        return None
    return next((draft for draft in DRAFTS if f"json-schema.org/{draft.name}/schema" in uri), None)


TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")

Form = Callable[[Json], str | None]
"""Says what was expected, or None when the value is right. Subschemas are looked at on their own."""


Forms = dict[str, Form]


def _schema(value: Json) -> str | None:
    return None if isinstance(value, dict | bool) else "a schema (an object or a boolean)"


def _schema_object(value: Json) -> str | None:
    return None if isinstance(value, dict) else "a schema (an object)"


def _schemas(value: Json) -> str | None:
    return None if isinstance(value, list) and value else "a list of schemas, not empty"


def _schema_or_list(value: Json) -> str | None:
    return (
        None
        if isinstance(value, dict | bool) or (isinstance(value, list) and value)
        else "a schema or a list of schemas"
    )


def _object(value: Json) -> str | None:
    return None if isinstance(value, dict) else "an object"


def _string(value: Json) -> str | None:
    return None if isinstance(value, str) else "a string"


def _boolean(value: Json) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _number(value: Json) -> str | None:
    return None if isinstance(value, int | float) and not isinstance(value, bool) else "a number"


def _positive(value: Json) -> str | None:
    return None if _number(value) is None and value > 0 else "a number above 0"


def _count(value: Json) -> str | None:
    return None if is_integer(value) and value >= 0 else "an integer, 0 or more"


def _list(value: Json) -> str | None:
    return None if isinstance(value, list) else "a list"


def _names(value: Json) -> str | None:
    right = isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)
    return None if right else "a list of different property names"


def _some_names(value: Json) -> str | None:
    return _names(value) if value != [] else "a list of property names, not empty"


def _some_values(value: Json) -> str | None:
    right = isinstance(value, list) and value and len({identity(item) for item in value}) == len(value)
    return None if right else "a list of different values, not empty"


def _names_by_name(value: Json) -> str | None:
    return (
        None
        if isinstance(value, dict) and not any(map(_names, value.values()))
        else "an object of lists of property names"
    )


def _type(value: Json) -> str | None:
    names = value if isinstance(value, list) else [value]
    right = names and all(isinstance(name, str) and name in TYPES for name in names) and len(set(names)) == len(names)
    return None if right else "one of " + ", ".join(f'"{name}"' for name in TYPES) + ", or a list of them"


def _pattern(value: Json) -> str | None:
    if not isinstance(value, str):
        return "a regular expression"
    try:
        pattern(value)
    except BadPattern as error:
        return f"a regular expression ({error})"
    return None


def _patterned(value: Json) -> str | None:
    return _object(value) or next(filter(None, map(_pattern, value)), None)


_COMMON: Forms = {
    "$ref": _string,
    "$schema": _string,
    "type": _type,
    "multipleOf": _positive,
    "maximum": _number,
    "minimum": _number,
    "maxLength": _count,
    "minLength": _count,
    "pattern": _pattern,
    "maxItems": _count,
    "minItems": _count,
    "uniqueItems": _boolean,
    "maxProperties": _count,
    "minProperties": _count,
    "definitions": _object,
    "properties": _object,
    "patternProperties": _patterned,
    "dependencies": _object,
    "format": _string,
    "allOf": _schemas,
    "anyOf": _schemas,
    "oneOf": _schemas,
}

_DRAFT_4: Forms = _COMMON | {
    "exclusiveMaximum": _boolean,
    "exclusiveMinimum": _boolean,
    "items": _schema_or_list,
    "additionalItems": _schema,
    "additionalProperties": _schema,
    "required": _some_names,
    "enum": _some_values,
    "not": _schema_object,
}

_DRAFT_6: Forms = _COMMON | {
    "$id": _string,
    "exclusiveMaximum": _number,
    "exclusiveMinimum": _number,
    "items": _schema_or_list,
    "additionalItems": _schema,
    "additionalProperties": _schema,
    "required": _names,
    "enum": _list,
    "not": _schema,
    "contains": _schema,
    "propertyNames": _schema,
}

_DRAFT_7: Forms = _DRAFT_6 | {"if": _schema, "then": _schema, "else": _schema}

_DRAFT_2019: Forms = _DRAFT_7 | {
    "$anchor": _string,
    "$defs": _object,
    "$recursiveRef": _string,
    "$recursiveAnchor": _boolean,
    "dependentSchemas": _object,
    "dependentRequired": _names_by_name,
    "maxContains": _count,
    "minContains": _count,
    "unevaluatedItems": _schema,
    "unevaluatedProperties": _schema,
    "contentSchema": _schema,
}

_DRAFT_2020: Forms = {name: form for name, form in _DRAFT_2019.items() if name != "additionalItems"} | {
    "$dynamicRef": _string,
    "$dynamicAnchor": _string,
    "items": _schema,
    "prefixItems": _schemas,
}

_FORMS: Mapping[int, Forms] = {
    4: _DRAFT_4,
    6: _DRAFT_6,
    7: _DRAFT_7,
    2019: _DRAFT_2019,
    2020: _DRAFT_2020,
}

IN_PLACE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"})
"""Dialect_OUT whose subschemas checker the same value, not a part of it."""
_MAPS = frozenset({"properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"})
_SUBSCHEMAS = (
    frozenset({"additionalProperties", "additionalItems", "items", "prefixItems", "contains", "propertyNames"})
    | frozenset({"unevaluatedItems", "unevaluatedProperties", "contentSchema"})
    | IN_PLACE
    | _MAPS
)


def check_forms(schema: dict[str, Json], draft: Draft, place: Path) -> None:
    """Check the keywords of one schema, not of its subschemas.

    Raises:
        SchemaError: a keyword has a value that the draft's metaschema does not allow.
    """
    forms = _FORMS[draft.rank]
    for keyword, value in schema.items():
        form = forms.get(keyword)
        expected = form(value) if form else None
        if expected:
            raise SchemaError(f"expected {expected}{_hint(keyword, value)}", (*place, keyword))
    if draft.rank == 4:
        for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if exclusive in schema and bound not in schema:
                raise SchemaError(f"expected `{bound}` beside `{exclusive}` (draft 4)", place)


def _hint(keyword: str, value: Json) -> str:
    if keyword.startswith("exclusive"):
        return " (a boolean here is draft 4: name the draft in `$schema`)" if isinstance(value, bool) else ""
    if keyword == "items" and isinstance(value, list):
        return " (a list here is draft 2019-09 or older: use `prefixItems`, or name the draft in `$schema`)"
    if keyword == "required" and isinstance(value, bool):
        return " in the schema of the object (a boolean here is draft 3)"
    return ""


def subschemas(schema: dict[str, Json], draft: Draft) -> Iterator[tuple[Path, Json]]:
    """(place from here, subschema) of all schemas directly inside one, those of definitions too.

    Raises:
        SchemaError: something stands where a schema belongs.
    """
    forms = _FORMS[draft.rank]
    for keyword in _SUBSCHEMAS & schema.keys() & forms.keys():
        value = schema[keyword]
        if keyword in _MAPS:
            members: Iterator[tuple[Path, Json]] = (((keyword, name), member) for name, member in value.items())
        elif isinstance(value, list):
            members = (((keyword, index), member) for index, member in enumerate(value))
        else:
            members = iter([((keyword,), value)])
        for place, member in members:
            if keyword == "dependencies" and not isinstance(member, dict | bool):
                expected = (_some_names if draft.rank == 4 else _names)(member)
                if expected:
                    raise SchemaError(f"expected a schema or {expected}", place)
                continue
            _check_is_schema(member, draft, place)
            yield place, member


def _check_is_schema(value: Json, draft: Draft, place: Path) -> None:
    booleans = draft.rank > 4 or place[0] in {"additionalProperties", "additionalItems"}
    expected = (_schema if booleans else _schema_object)(value)
    if expected:
        raise SchemaError(f"expected {expected}", place)
