"""Structured output and tools whose schemas the Messages API would refuse as they are."""

import json
from typing import Any

import pytest
from proxy.anthropic.call import MessagesCall, make_call
from proxy.anthropic.reading import Reader
from proxy.translate.plan import PlanRules
from proxy.translate.reply import Stamp
from proxy.wire.openai import ChatRequest
from tests.unit.anthropic.test_reading import events

RULES = PlanRules(efforts={"medium": 4096})


def call(**fields: Any) -> MessagesCall:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **fields}
    return make_call(ChatRequest.model_validate(body), RULES, default_max_tokens=100)


def structured(schema: Any) -> MessagesCall:
    return call(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})


def completion(made: MessagesCall, blocks: list[tuple[str, Any]]) -> Any:
    reader = Reader(made)
    deltas = [delta for event in events(blocks, "end_turn") for delta in reader.read(event)]
    message = reader.completion(Stamp("chatcmpl-1", 1, "m", "fp_1"))["choices"][0]["message"]
    assert "".join(delta.get("content") or "" for delta in deltas) == (message["content"] or "")
    return message


@pytest.mark.parametrize(
    ("member", "written"),
    [
        ({"type": ["string", "null"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": "integer", "minimum": 1}, {"type": "integer", "description": ">= 1."}),
    ],
)
def test_structured_output_is_written_in_the_dialect_of_the_api(member: Any, written: Any) -> None:
    made = structured({"type": "object", "properties": {"a": member}, "required": ["a"]})
    assert made.body["output_config"]["format"]["schema"] == {
        "type": "object",
        "properties": {"a": written},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert made.output is None
    assert completion(made, [("text", ['{"a"', ": 1}"])])["content"] == '{"a": 1}'


def test_a_property_that_may_be_anything_comes_back_parsed() -> None:
    made = structured({"type": "object", "properties": {"a": {}}})
    assert completion(made, [("text", ['{"a": "{\\"b\\"', ': 1}"}'])])["content"] == '{"a":{"b":1}}'
    assert completion(made, [("text", ["no JSON"])])["content"] == "no JSON"


def test_property_names_are_aliased_and_come_back() -> None:
    schema = {"type": "object", "properties": {"Account Number": {"type": "string"}}, "required": ["Account Number"]}
    made = structured(schema)
    assert list(made.body["output_config"]["format"]["schema"]["properties"]) == ["Account_Number"]
    assert json.loads(completion(made, [("text", ['{"Account_Number": "1"}'])])["content"]) == {"Account Number": "1"}


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_names_in_the_parameters_of_tools_are_aliased_and_come_back(choice: str) -> None:
    parameters = {"type": "object", "properties": {"filter[name]": {"type": "string"}}}
    made = call(
        tools=[{"type": "function", "function": {"name": "safe", "parameters": parameters}}], tool_choice=choice
    )
    assert list(made.body["tools"][0]["input_schema"]["properties"]) == ["filter_name"]
    message = completion(made, [("tool_use", {"filter_name": "x"})])
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"filter[name]": "x"}


def test_tools_whose_names_are_accepted_are_sent_as_they_are() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "string", "x-own": 1}}}
    made = call(tools=[{"type": "function", "function": {"name": "safe", "parameters": parameters}}])
    assert made.body["tools"][0]["input_schema"] == parameters
