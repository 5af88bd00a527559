"""Schemas that must hold together are filled together."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from proxy.sandbox.fill import Filler
from proxy.sandbox.merge import merge

PARTS: list[list[Any]] = [
    [{"type": "integer", "minimum": 3}, {"maximum": 5, "minimum": 4}],
    [{"type": ["string", "number"]}, {"type": ["integer", "null"]}],
    [{"enum": [1, 2, "a"]}, {"enum": ["a", 2]}, {"type": "string"}],
    [{"type": "string", "minLength": 3, "maxLength": 9}, {"minLength": 5, "maxLength": 6}],
    [
        {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"properties": {"a": {"minimum": 7}}, "required": ["b"]},
    ],
    [{"type": "array", "items": {"type": "integer"}, "minItems": 1}, {"items": {"minimum": 7}, "maxItems": 2}],
    [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}],
    [{"type": "integer", "multipleOf": 2}, {"multipleOf": 3}],
    [{"type": "number", "multipleOf": 0.5}, {"multipleOf": 0.75}],
    [{"type": "string", "not": {"const": "sample"}}, {"not": {"const": "a"}}],
    [{"type": "integer", "if": {"minimum": 2}, "then": {"minimum": 5}}, {"if": {"maximum": 4}, "then": False}],
    [{"allOf": [{"type": "string"}]}, {"allOf": [{"minLength": 2}]}],
    [{"type": "string", "title": "A"}, {"title": "B", "description": "b"}],
    [True, {"type": "null"}],
    [
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"additionalProperties": True, "required": ["x"]},
    ],
]


@pytest.mark.parametrize("parts", PARTS)
def test_a_value_is_found_that_fits_every_part(parts: list[Any]) -> None:
    schema = {"allOf": parts}
    Draft202012Validator(schema).validate(Filler(schema).fill(schema))


def test_what_forbids_everything_wins() -> None:
    assert merge({"type": "string"}, False) is False
    assert merge(False, {"type": "string"}) is False
    assert merge({"type": "string"}, True) == {"type": "string"}
