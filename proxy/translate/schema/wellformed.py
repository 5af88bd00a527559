"""What form the value of each keyword must have: the metaschemas of the five drafts as one table.

The walk over a schema is ours, not a run of the metaschema: it takes a tenth of the time, cannot overflow the stack, and its
messages name the place and what belongs there. Annotations (`title`, `examples`, …) of a wrong form are ignored, as they bind nothing.
"""

from collections.abc import Callable, Iterator, Mapping

from proxy.translate.schema.dialect import Dialect
from proxy.translate.schema.faults import Place, SchemaFault
from proxy.translate.schema.patterns import BadPattern, pattern
from proxy.translate.schema.values import Json, identity, is_integer

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
"""Keywords whose subschemas judge the same value, not a part of it."""
_MAPS = frozenset({"properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"})
_SUBSCHEMAS = (
    frozenset({"additionalProperties", "additionalItems", "items", "prefixItems", "contains", "propertyNames"})
    | frozenset({"unevaluatedItems", "unevaluatedProperties", "contentSchema"})
    | IN_PLACE
    | _MAPS
)


def check_forms(schema: dict[str, Json], dialect: Dialect, place: Place) -> None:
    """Check the keywords of one schema, not of its subschemas.

    Raises:
        SchemaFault: a keyword has a value that the draft's metaschema does not allow.
    """
    forms = _FORMS[dialect.rank]
    for keyword, value in schema.items():
        form = forms.get(keyword)
        expected = form(value) if form else None
        if expected:
            raise SchemaFault(f"expected {expected}{_hint(keyword, value)}", (*place, keyword))
    if dialect.rank == 4:
        for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if exclusive in schema and bound not in schema:
                raise SchemaFault(f"expected `{bound}` beside `{exclusive}` (draft 4)", place)


def _hint(keyword: str, value: Json) -> str:
    if keyword.startswith("exclusive"):
        return " (a boolean here is draft 4: name the draft in `$schema`)" if isinstance(value, bool) else ""
    if keyword == "items" and isinstance(value, list):
        return " (a list here is draft 2019-09 or older: use `prefixItems`, or name the draft in `$schema`)"
    if keyword == "required" and isinstance(value, bool):
        return " in the schema of the object (a boolean here is draft 3)"
    return ""


def subschemas(schema: dict[str, Json], dialect: Dialect) -> Iterator[tuple[Place, Json]]:
    """(place from here, subschema) of all schemas directly inside one, those of definitions too.

    Raises:
        SchemaFault: something stands where a schema belongs.
    """
    forms = _FORMS[dialect.rank]
    for keyword in _SUBSCHEMAS & schema.keys() & forms.keys():
        value = schema[keyword]
        if keyword in _MAPS:
            members: Iterator[tuple[Place, Json]] = (((keyword, name), member) for name, member in value.items())
        elif isinstance(value, list):
            members = (((keyword, index), member) for index, member in enumerate(value))
        else:
            members = iter([((keyword,), value)])
        for place, member in members:
            if keyword == "dependencies" and not isinstance(member, dict | bool):
                expected = (_some_names if dialect.rank == 4 else _names)(member)
                if expected:
                    raise SchemaFault(f"expected a schema or {expected}", place)
                continue
            _check_is_schema(member, dialect, place)
            yield place, member


def _check_is_schema(value: Json, dialect: Dialect, place: Place) -> None:
    booleans = dialect.rank > 4 or place[0] in {"additionalProperties", "additionalItems"}
    expected = (_schema if booleans else _schema_object)(value)
    if expected:
        raise SchemaFault(f"expected {expected}", place)
