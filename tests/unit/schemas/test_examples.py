"""Schemas as pydantic, zod, MCP servers, OpenAPI and people write them, with values that match and values that do not."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from proxy.schemas import coerce, compile_schema, validate
from tests.unit.schemas.documented import DOCUMENTED, keywords_in

LINES = (Path(__file__).parents[2] / "data" / "schemas.jsonl").read_text("utf-8").rstrip("\n").split("\n")
EXAMPLES = [json.loads(line) for line in LINES]


@pytest.mark.parametrize("example", EXAMPLES, ids=[example["id"] for example in EXAMPLES])
def test_an_example_is_compiled_checked_and_left_alone_as_its_values_say(example: dict[str, Any]) -> None:
    compiled = compile_schema(example["schema"], param="s")
    for schema in (
        compiled.schema,
        compile_schema(example["schema"], param="s", bounds=False).schema,
        compile_schema(example["schema"], param="s", dialect="full").schema,
    ):
        Draft202012Validator.check_schema(schema)
        for value in example["valid"]:
            Draft202012Validator(schema).validate(value)
    assert keywords_in(compiled.schema) <= DOCUMENTED
    assert [value for value in example["valid"] if validate(compiled, value).errors] == []
    assert [value for value in example["valid"] if coerce(compiled, value) is not value] == []
    assert [value for value in example["invalid"] if not validate(compiled, value).errors] == []
