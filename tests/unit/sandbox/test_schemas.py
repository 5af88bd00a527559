"""Which output schemas are taken (contract narrative.md, What output_format_schema may use)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from proxy.sandbox import SandboxOptions
from proxy.sandbox.http import ModelRejection, SandboxError
from proxy.sandbox.values import check_schema
from tests.unit.sandbox.building import CONTENT, StoppedSandbox
from tests.unit.sandbox.schema_strategies import documented_objects


def check(schema: dict[str, Any], **options: Any) -> None:
    check_schema(schema, 100, SandboxOptions(**options))


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "inner",
    [
        {"anyOf": [{"type": "string"}]},
        {"oneOf": [{"type": "string"}]},
        {"allOf": [{"type": "string"}]},
        {"not": {"type": "string"}},
        {"const": 1},
        {"$ref": "#"},
        {"type": "string", "format": "date"},
        {"type": "string", "default": "a"},
        {"type": "array", "prefixItems": [{}]},
    ],
)
def test_keywords_that_are_not_documented_are_refused_unless_asked_for(inner: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": inner}}}
    with pytest.raises(ModelRejection, match="#/properties/a/items: keyword") as caught:
        check(schema)
    assert caught.value.cause == "Invalid schema"
    check(schema, schema_keywords="full")


@pytest.mark.parametrize("mode", ["documented", "full"])
@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "string"},
        {"type": ["object", "null"]},
        {"type": "objekt"},
        {"type": "object", "properties": []},
        {"type": "object", "properties": {"a": 1}},
        {"type": "object", "required": "a"},
        {"type": "object", "required": ["a", "a"]},
        {"type": "object", "properties": {"a": {"minLength": -1}}},
        {"type": "object", "properties": {"a": {"multipleOf": 0}}},
        {"type": "object", "properties": {"a": {"type": [["string"]]}}},
        {"type": "object", "properties": {"a": {"type": []}}},
        {"type": "object", "properties": {"a": {"uniqueItems": "yes"}}},
        nested(2000),
    ],
)
def test_malformed_schemas_are_refused_in_both_modes(schema: dict[str, Any], mode: str) -> None:
    with pytest.raises(ModelRejection):
        check(schema, schema_keywords=mode)


def test_type_lists_can_be_switched_off() -> None:
    schema = {"type": "object", "properties": {"a": {"type": ["string", "null"]}}}
    check(schema)
    with pytest.raises(ModelRejection, match="#/properties/a/type: "):
        check(schema, type_lists=False)


def test_large_schemas_are_refused_at_once_or_by_a_failed_job() -> None:
    with pytest.raises(SandboxError) as caught:
        StoppedSandbox(max_schema_bytes=50).submit()
    assert (caught.value.status, caught.value.error) == (400, "Invalid schema")
    record = StoppedSandbox(max_schema_bytes=50, refusals="fail").ended()
    assert (record["state"], record["result"], record["failures"][0]["cause"]) == ("failed", None, "Invalid schema")


def test_a_refused_schema_is_refused_again_from_memory() -> None:
    sandbox = StoppedSandbox()
    for _ in range(2):
        with pytest.raises(SandboxError):
            sandbox.submit(schema={"type": "object", "anyOf": [{}]})
    assert sandbox.submit(schema=CONTENT)


@given(documented_objects())
def test_documented_schemas_are_taken_in_both_modes(schema: dict[str, Any]) -> None:
    check(schema)
    check(schema, schema_keywords="full")


@given(
    st.dictionaries(
        st.sampled_from(["type", "properties", "required", "items", "enum", "minimum", "minItems", "pattern", "title"]),
        st.sampled_from(["object", "x", 1, -1, 1.5, True, None, [], {}, ["a"], ["a", "a"], {"a": {}}, {"a": 1}]),
    )
)
def test_our_reading_of_keywords_is_never_laxer_than_the_meta_schema(inner: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"a": inner}}
    try:
        check(schema)
    except ModelRejection:
        return
    Draft202012Validator.check_schema(schema)
