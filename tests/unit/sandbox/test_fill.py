"""The filler: any schema gets a value that fits it."""

from typing import Any

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator

from proxy.sandbox.fill import MISSING, Filler, Unfillable
from proxy.sandbox.jsontext import dumps
from proxy.sandbox.patterns import matches
from tests.unit.sandbox.schema_strategies import documented_objects, full_objects


def fill(schema: Any, **how: Any) -> Any:
    return Filler(schema, **how).fill(schema)


@given(documented_objects())
def test_every_documented_schema_is_filled_validly(schema: dict[str, Any]) -> None:
    for generous in (True, False):
        value = fill(schema, generous=generous)
        Draft202012Validator(schema).validate(value)
        assert dumps(value)


@given(full_objects())
def test_every_full_schema_is_filled_validly(schema: dict[str, Any]) -> None:
    Draft202012Validator(schema).validate(fill(schema))


@given(documented_objects())
def test_the_same_schema_is_filled_the_same_way(schema: dict[str, Any]) -> None:
    assert fill(schema) == fill(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 2**70},
        {"type": "number", "exclusiveMinimum": 0.1, "exclusiveMaximum": 0.2},
        {"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1e-9},
        {"type": "integer", "multipleOf": 1.5, "exclusiveMinimum": 3},
        {"type": "number", "multipleOf": 0.01, "minimum": 0.295, "maximum": 0.305},
        {"type": "integer", "minimum": -7, "maximum": -7},
        {"type": "string", "pattern": "^(?=.*[0-9])[a-z0-9]{6,}$"},
        {"type": "string", "pattern": "^(a+)+$", "minLength": 30, "maxLength": 30},
        {"type": "string", "pattern": "^.{300}$"},
        {"type": "string", "minLength": 1000},
        {"type": "string", "maxLength": 0},
        {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 2},
        {"type": "array", "uniqueItems": True, "minItems": 9},
        {"type": "array", "minItems": 300, "items": {"type": "object", "required": ["a"]}},
        {
            "type": "array",
            "uniqueItems": True,
            "minItems": 4,
            "items": {
                "type": "object",
                "properties": {"a": {"type": "boolean"}, "b": {"type": "boolean"}},
                "required": ["a", "b"],
                "additionalProperties": False,
            },
        },
        {"type": "array", "items": False},
        {"enum": [1, "a"], "type": "string"},
        {"type": "string", "enum": ["a", "bb"], "minLength": 2},
        {"oneOf": [{"type": "integer"}, {"minimum": 2}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$anchor": "x", "type": "object", "properties": {"b": {"$ref": "#x"}}}}},
        {"not": {"type": ["string", "integer", "boolean", "object", "array"]}},
    ],
)
def test_awkward_schemas_are_filled_validly(schema: dict[str, Any]) -> None:
    Draft202012Validator(schema).validate(fill(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "array", "items": {"type": "null"}, "uniqueItems": True, "minItems": 2},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"$ref": "#"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "http://127.0.0.1:9/remote"},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "array", "minItems": 10**9},
    ],
)
def test_what_cannot_be_filled_is_said_and_does_not_hang(schema: dict[str, Any]) -> None:
    """Trap: recursive schemas hang or overflow; a remote reference is never fetched."""
    with pytest.raises(Unfillable):
        fill(schema)


@pytest.mark.parametrize(
    ("pattern", "plain"),
    [
        ("^\\p{L}+$", "Ada"),
        ("^\\p{Lu}[\\p{Ll}-]{2}$", "-"),
        ("^(?<year>\\d{4})$", "-"),
        ("^(?<=^)a(?<!b)$", "-"),
    ],
)
def test_patterns_are_read_as_ecma_writes_them(pattern: str, plain: str) -> None:
    assert matches(pattern, fill({"type": "string", "pattern": pattern}, plain=plain))


def test_what_is_no_pattern_at_all_is_ignored() -> None:
    assert fill({"type": "string", "pattern": "(["}, plain="Ada") == "Ada"


def test_hints_are_taken_where_they_fit() -> None:
    schema = {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "maximum": 99},
            "name": {"type": "string"},
            "note": {"type": "string"},
        },
        "required": ["age"],
    }
    hints = {"age": 300, "name": "Ada"}
    value = fill(schema, hint=lambda name, _: hints.get(name, MISSING), generous=False)
    assert value == {"age": 1, "name": "Ada"}
    assert list(fill(schema)) == ["age", "name", "note"]


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a?)+$", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_a_catastrophic_pattern_is_not_tried_on_foreign_words(pattern: str) -> None:
    """Trap: a caller's `pattern` runs in a backtracking engine on the event loop. On these words it would never end."""
    schema = {"type": "object", "properties": {"x": {"type": "string", "pattern": pattern}}, "required": ["x"]}
    long = "a" * 200 + "!"
    Draft202012Validator(schema).validate(fill(schema, hint=lambda name, _: long, plain=long))
