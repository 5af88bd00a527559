"""The compiled value as a whole: kept apart from the caller's, remembered, and plainer on demand."""

import copy
from typing import Any

import pytest

from proxy.errors import InvalidRequest
from proxy.schemas import compile_schema, validate


def test_the_compiled_schema_is_independent_of_the_value_that_came() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}
    compiled = compile_schema(schema, param="s")
    schema["properties"]["a"]["type"] = "integer"
    assert compiled.schema["properties"]["a"] == compiled.document.root["properties"]["a"] == {"type": "string"}
    assert not validate(compiled, {"a": "x"}).errors
    assert validate(compile_schema(schema, param="s"), {"a": "x"}).errors


def test_a_deep_copy_still_checks() -> None:
    compiled = copy.deepcopy(compile_schema({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}, param="s"))
    assert validate(compiled, 1).errors
    assert not validate(compiled, "x").errors


def test_the_original_is_kept_as_it_came() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "http://x.example/s",
        "properties": {"a": False},
    }
    assert compile_schema(schema, param="s").document.root == schema


def test_the_same_schema_is_compiled_once_for_each_mode() -> None:
    schema = {"type": "object", "properties": {"only": {"const": "here"}}}
    first = compile_schema(schema, param="one")
    assert compile_schema(dict(schema), param="two") is first
    assert compile_schema(schema, param="one", dialect="full") is not first
    assert compile_schema({"properties": schema["properties"], "type": "object"}, param="one") is not first


def test_the_path_of_a_repeated_error_is_the_one_asked_for() -> None:
    for param in ("tools[0].function.parameters", "tools[7].function.parameters"):
        with pytest.raises(InvalidRequest) as caught:
            compile_schema({"properties": {"a b": {"type": "strin"}}}, param=param)
        assert caught.value.param == f'{param}.properties["a b"].type'
        assert caught.value.message.startswith(f"Invalid JSON Schema at {caught.value.param}: expected one of ")


def test_without_bounds_moves_lengths_bounds_counts_and_patterns_into_descriptions() -> None:
    """Models behind refuse lengths, bounds or item counts although the upstream lists them."""
    schema = {
        "title": "T",
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^x", "description": "Name"},
            "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "uniqueItems": True},
            "other": {"type": "object", "additionalProperties": {"type": "number", "multipleOf": 2}},
            "either": {
                "anyOf": [{"type": "string", "maxLength": 1}, {"type": "string", "minLength": 3, "format": "date"}]
            },
        },
        "required": ["name"],
    }
    compiled = compile_schema(schema, param="s", dialect="full")
    plainer = compile_schema(schema, param="s", dialect="full", bounds=False)
    assert plainer.schema == {
        "title": "T",
        "type": "object",
        "properties": {
            "name": {"description": "Name\nOf 1 to 5 characters. Matching ^x.", "type": "string"},
            "sizes": {
                "description": "Of at least 1 item. Without repeats.",
                "type": "array",
                "items": {"description": ">= 0.", "type": "integer"},
            },
            "other": {"type": "object", "additionalProperties": {"description": "Multiple of 2.", "type": "number"}},
            "either": {
                "type": "string",
                "anyOf": [
                    {"description": "Of at most 1 character.", "type": "string"},
                    {"description": "Of at least 3 characters.", "type": "string", "format": "date"},
                ],
            },
        },
        "required": ["name"],
    }
    assert validate(plainer, {"name": ""}).errors == validate(compiled, {"name": ""}).errors
