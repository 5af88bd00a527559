"""Values for output schemas: valid for every documented schema, taken from the text where it offers something."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from proxy.sandbox.http import dumps
from proxy.sandbox.values import Unsatisfiable, ValueMaker
from tests.unit.sandbox.schema_strategies import documented_objects


def make(schema: Any, text: str = "", *, optional: bool = True) -> Any:
    return ValueMaker(text, optional=optional).make(schema)


def make_field(schema: Any, text: str, name: str = "x") -> Any:
    return make({"type": "object", "properties": {name: schema}, "required": [name]}, text)[name]


@given(documented_objects(), st.booleans(), st.text(max_size=40))
def test_every_documented_schema_gets_a_valid_value(schema: dict[str, Any], optional: bool, text: str) -> None:
    value = make(schema, text, optional=optional)
    Draft202012Validator(schema).validate(value)
    assert dumps(value)


@given(documented_objects(), st.text(max_size=40))
def test_the_same_schema_gets_the_same_value(schema: dict[str, Any], text: str) -> None:
    assert make(schema, text) == make(schema, text)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1}, "minItems": 3, "maxItems": 3},
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
        {"enum": [1, "a"], "type": "string"},
        {"type": "string", "enum": ["a", "bb"], "minLength": 2},
    ],
)
def test_awkward_schemas_get_valid_values(schema: dict[str, Any]) -> None:
    Draft202012Validator(schema).validate(make(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "string", "minLength": 2, "maxLength": 1},
        {"type": "string", "minLength": 10**9},
        {"type": "string", "enum": [1]},
        {"type": "array", "items": {"type": "null"}, "uniqueItems": True, "minItems": 2},
        {"type": "array", "minItems": 10**9},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "string", "pattern": "^((((a*)*)*)*)*b{1000}{1000}$"},
        {"type": "string", "pattern": "(["},
        {"$ref": "http://127.0.0.1:9/remote"},
        {"allOf": [{"type": "integer"}]},
    ],
)
def test_a_schema_without_a_value_is_reported_in_bounded_time(schema: dict[str, Any]) -> None:
    with pytest.raises(Unsatisfiable):
        make(schema)


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a?)+$", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_a_catastrophic_pattern_is_not_run_on_the_text(pattern: str) -> None:
    """Trap: a caller's `pattern` runs in a backtracking engine on the event loop. On these words it would never end."""
    schema = {"type": "string", "pattern": pattern}
    Draft202012Validator(schema).validate(make_field(schema, "a" * 200 + "!"))


def test_a_field_gets_what_the_text_offers_for_its_type() -> None:
    schema = {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "maximum": 99},
            "weight": {"type": "number"},
            "name": {"type": "string"},
            "second_name": {"type": "string"},
            "email": {"type": "string", "pattern": "^\\S+@\\S+$"},
            "colour": {"type": "string", "enum": ["red", "blue"]},
            "sizes": {"type": "array", "items": {"type": "string", "enum": ["small", "medium", "large"]}},
            "married": {"type": "boolean"},
        },
    }
    text = "In 1906 there was Grace Hopper, aged 45, of 61.5 kg: prefers blue, sizes small and large; write to grace@navy.mil"
    assert make(schema, text) == {
        "age": 45,
        "weight": 1906,
        "name": "Grace Hopper",
        "second_name": text[:200],
        "email": "grace@navy.mil",
        "colour": "blue",
        "sizes": ["small", "large"],
        "married": False,
    }


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "Describe Paris", "Paris"),
        ({"type": "string"}, "Please look up 'Mont Blanc' in France", "Mont Blanc"),
        ({"type": "string"}, "what is that", "what is that"),
        ({"type": "string", "maxLength": 4}, "Describe Paris", "Desc"),
        (
            {"type": "array", "items": {"type": "string"}},
            "Compare Paris, Rome and New York",
            ["Paris", "Rome", "New York"],
        ),
        ({"type": "array", "items": {"type": "integer"}}, "add 3 and -4 and 1.5", [3, -4]),
        ({"type": "integer"}, "version 1.2.3", 1),
        ({"type": ["null", "integer"]}, "7 dwarfs", 7),
    ],
)
def test_values_come_from_the_text(schema: dict[str, Any], text: str, value: Any) -> None:
    assert make_field(schema, text) == value


def test_a_question_goes_whole_into_a_field_that_is_named_so() -> None:
    assert make_field({"type": "string"}, "Which hotels are in Paris?", "search_query") == "Which hotels are in Paris?"


def test_optional_fields_are_filled_only_where_asked_for_or_mentioned() -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "limit": {"type": "integer"},
            "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
            "note": {"type": "string"},
        },
        "required": ["city"],
    }
    text = "Weather in Oslo for 3 days in Celsius"
    assert make(schema, text, optional=False) == {"city": "Oslo", "days": 3, "unit": "celsius"}
    assert list(make(schema, text)) == ["city", "days", "limit", "unit", "note"]
