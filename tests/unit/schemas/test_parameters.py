"""Parameters of a tool: saying nothing of the type means an object."""

from typing import Any

import pytest

from proxy.errors import InvalidRequest
from proxy.schemas import compile_schema, validate

EMPTY = {"type": "object", "properties": {}}


@pytest.mark.parametrize("parameters", [None, {}, True, {"type": "object"}, {"properties": {}}])
def test_parameters_that_declare_nothing_are_an_object_without_properties(parameters: Any) -> None:
    """Missing, null or typeless `parameters` fail all tools."""
    result = compile_schema(parameters, param="p", parameters=True)
    assert result.schema == EMPTY
    assert result.is_object
    assert not validate(result, {}).errors
    assert not validate(result, {"x": 1}).errors


def test_a_free_form_object_is_kept_where_it_is_asked_for() -> None:
    result = compile_schema({"type": "object", "additionalProperties": True}, param="p", parameters=True)
    assert result.schema == {"type": "object", "additionalProperties": True}
    closed = {"type": "object", "properties": {}, "additionalProperties": False}
    assert compile_schema(closed, param="p", parameters=True).schema == closed


def test_typeless_parameters_with_properties_are_an_object_and_other_values_are_faults() -> None:
    result = compile_schema({"properties": {"a": {"type": "integer"}}}, param="p", parameters=True)
    assert result.schema == {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert [error.message for error in validate(result, [1]).errors] == ["expected object, got array"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "array", "items": {"type": "string"}},
        {"type": "string"},
        {"type": ["object", "null"]},
        {"enum": ["a"]},
        {"anyOf": [{"type": "object"}, {"type": "array"}]},
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"type": "array", "items": {"$ref": "#/$defs/a"}}},
        },
    ],
)
def test_roots_of_other_types_are_kept_and_marked(parameters: dict[str, Any]) -> None:
    """A root that is not an object is refused upstream: the caller wraps it under one key."""
    result = compile_schema(parameters, param="p", parameters=True)
    assert not result.is_object
    assert not result.must_be_object


@pytest.mark.parametrize("parameters", [False, [], "x", 3, {"type": "objekt"}])
def test_parameters_that_are_no_schema_are_refused(parameters: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compile_schema(parameters, param="tools[3].function.parameters", parameters=True)
    assert caught.value.param is not None
    assert caught.value.param.startswith("tools[3].function.parameters")
    assert "tools[3].function.parameters" in caught.value.message
