"""Spelling is coerced where the schema leaves no doubt, and nothing else is touched."""

import json
from typing import Any

import pytest

from proxy.schemas import coerce, compile_schema

D4, D7 = "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema#"


def coerced(schema: Any, instance: Any) -> Any:
    return coerce(compile_schema(schema, param="s"), instance)


def in_object(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}}


COERCED: list[tuple[Any, Any, Any]] = [
    ({"type": "integer"}, "3", 3),
    ({"type": "integer"}, " -3.0 ", -3),
    ({"type": "number"}, "2.50", 2.5),
    ({"type": ["number", "null"]}, "null", None),
    ({"type": "boolean"}, "True", True),
    ({"type": "string"}, 3, "3"),
    ({"type": "string"}, False, "false"),
    ({"$schema": D4, "type": "integer"}, 3.0, 3),
    ({"enum": ["Red", "green"]}, " red", "Red"),
    ({"const": "on"}, "ON", "on"),
    ({"enum": [1, 2]}, "2", 2),
    ({"enum": ["1", "2"]}, 2, "2"),
    ({"type": "object"}, '{"x": [1]}', {"x": [1]}),
    ({"type": "array", "items": {"type": "integer"}}, '["1", 2]', [1, 2]),
    ({"type": "array", "items": {"type": "string"}}, "x", ["x"]),
    ({"type": "array", "items": {"type": "object"}}, {"x": 1}, [{"x": 1}]),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "3", 3),
    ({"anyOf": [in_object({"type": "integer"}), {"type": "array"}]}, {"a": "1"}, {"a": 1}),
    (
        {"allOf": [in_object({"type": "integer"}), {"properties": {"b": {"type": "boolean"}}}]},
        {"a": "1", "b": "true"},
        {"a": 1, "b": True},
    ),
    ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, "3", 3),
    ({"if": {"type": "object"}, "then": in_object({"type": "integer"})}, {"a": "1"}, {"a": 1}),
    ({"items": {"type": "integer"}}, [1, "2", "x"], [1, 2, "x"]),
    ({"prefixItems": [{"type": "integer"}], "items": {"type": "boolean"}}, ["1", "true"], [1, True]),
    (
        {"patternProperties": {"^n": {"type": "integer"}}, "additionalProperties": {"type": "boolean"}},
        {"n1": "1", "x": "true"},
        {"n1": 1, "x": True},
    ),
    (in_object({"type": "string"}), {"a": None, "b": None}, {"b": None}),
    (in_object({"type": "string"}) | {"additionalProperties": False}, {"a": "x", "b": None}, {"a": "x"}),
]


@pytest.mark.parametrize(("schema", "instance", "expected"), COERCED, ids=repr)
def test_a_value_that_is_wrong_in_spelling_only_is_coerced(schema: Any, instance: Any, expected: Any) -> None:
    result = coerced(schema, instance)
    assert result == expected
    assert type(result) is type(expected)


LEFT: list[tuple[Any, Any]] = [
    ({"type": "integer"}, "3.5"),
    ({"type": "integer"}, "three"),
    ({"type": "integer"}, "1,000"),
    ({"type": "integer"}, "0x10"),
    ({"type": "integer"}, True),
    ({"type": "boolean"}, 1),
    ({"type": "boolean"}, "yes"),
    ({"type": "string"}, 1.5),
    ({"type": "string"}, None),
    ({"type": "integer", "minimum": 5}, "3"),
    ({"enum": ["a", "A"]}, " a"),
    ({"enum": [{"a": 1}]}, {"a": "1"}),
    ({"enum": [[1]]}, [2]),
    ({"type": "array", "items": {"type": "string"}}, "a, b"),
    ({"type": "array", "items": {"type": "integer"}}, "x"),
    ({"type": "array"}, {"x": 1}),
    ({"type": "array", "items": {"type": "null"}}, None),
    ({"type": "object"}, "{broken"),
    (in_object({"type": "string"}) | {"required": ["a"]}, {"a": None}),
    ({"anyOf": [{"type": "integer"}, {"enum": [3.5, True]}]}, "nothing"),
    (
        {"anyOf": [in_object({"const": 1}) | {"required": ["a"]}, in_object({"const": True}) | {"required": ["a"]}]},
        {"a": "x"},
    ),
    ({"anyOf": [{"enum": ["AB"]}, {"enum": ["ab"]}]}, "aB"),
]


@pytest.mark.parametrize(("schema", "instance"), LEFT, ids=repr)
def test_a_value_whose_meaning_is_in_doubt_is_left_alone(schema: Any, instance: Any) -> None:
    assert coerced(schema, instance) is instance


def test_json_text_is_unwrapped_once_and_what_is_inside_is_coerced() -> None:
    """Arguments that are themselves JSON text get encoded twice."""
    schema = in_object({"type": "object", "properties": {"n": {"type": "integer"}}})
    assert coerced(schema, {"a": '{"n": "3"}'}) == {"a": {"n": 3}}
    twice = {"a": '"{}"'}
    assert coerced(schema, twice) is twice


def test_a_null_that_the_client_forbids_is_removed_deep_inside() -> None:
    """Nulls for what is left out fail the tool's own validation."""
    schema = {
        "$ref": "#/$defs/n",
        "$defs": {"n": {"type": "object", "properties": {"x": {"type": "string"}, "n": {"$ref": "#/$defs/n"}}}},
    }
    assert coerced(schema, {"n": {"n": {"x": None, "n": None}}}) == {"n": {"n": {}}}


def test_the_nulls_of_other_alternatives_are_removed_from_a_merged_union() -> None:
    members = [
        {"type": "object", "properties": {name: {"type": "string"}}, "required": [name], "additionalProperties": False}
        for name in "ab"
    ]
    assert coerced({"anyOf": members}, {"a": None, "b": "x"}) == {"b": "x"}


def test_the_text_of_an_object_is_unwrapped_where_parameters_name_no_type() -> None:
    compiled = compile_schema({"properties": {"a": {"type": "integer"}}}, param="p", parameters=True)
    assert coerce(compiled, '{"a": "1"}') == {"a": 1}


def test_what_can_be_mended_is_mended_beside_what_cannot() -> None:
    schema = {"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
    instance = {"a": "1", "b": "x"}
    assert coerced(schema, instance) == {"a": 1, "b": "x"}
    assert instance == {"a": "1", "b": "x"}


def test_keywords_beside_a_reference_are_not_followed_in_draft_7() -> None:
    schema = {
        "$schema": D7,
        "$ref": "#/definitions/n",
        "properties": {"a": {"$ref": "#/nowhere"}},
        "definitions": {"n": {"type": "integer"}},
    }
    assert coerced(schema, "3") == 3


WHOLE: list[tuple[Any, Any, Any]] = [
    ({"type": "integer"}, 3.0, 3),
    ({"type": ["integer", "null"]}, 3.0, 3),
    ({"enum": [1, 2]}, 2.0, 2),
    ({"const": 2}, 2.0, 2),
    ({"properties": {"a": {"items": {"type": "integer"}}}}, {"a": [1.0, 2]}, {"a": [1, 2]}),
    ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, 3.0, 3),
    ({"allOf": [{"type": "number"}, {"type": "integer"}]}, 3.0, 3),
    ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, -3.0, -3),
    ({"additionalProperties": {"type": "integer"}}, {"a": 1e3}, {"a": 1000}),
]


@pytest.mark.parametrize(("schema", "instance", "expected"), WHOLE, ids=repr)
def test_integers_come_back_as_integers(schema: Any, instance: Any, expected: Any) -> None:
    assert json.dumps(coerced(schema, instance)) == json.dumps(expected)


FLOATS: list[tuple[Any, Any]] = [
    ({"type": "number"}, 3.0),
    ({}, 3.0),
    ({"type": ["integer", "number"]}, 3.0),
    ({"enum": [1.5, "x"]}, 1.5),
    ({"anyOf": [{"type": "number"}, {"type": "integer", "minimum": 5}]}, 3.0),
    ({"type": "integer"}, 3.5),
    ({"type": "integer"}, 1e300),
]


@pytest.mark.parametrize(("schema", "instance"), FLOATS, ids=repr)
def test_numbers_that_need_not_be_integers_are_left_alone(schema: Any, instance: Any) -> None:
    assert coerced(schema, instance) is instance
