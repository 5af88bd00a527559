"""What chat requests may ask for, over real sockets: names of models, tools of every type, tags, reports."""

import json
import socket
from typing import Any

import pytest

from tests.conftest import Deployment
from tests.scripts import script
from tests.wire.test_streams import chunks

CLOCK = {"type": "function", "function": {"name": "clock"}}
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def ask(text: str = "Hello!", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def refusal(deployment: Deployment, **fields: Any) -> tuple[int, str]:
    before = deployment.jobs_submitted()
    answer = deployment.chat(ask(**fields))
    assert deployment.jobs_submitted() == before
    return answer.status_code, answer.json()["error"]["param"]


# ---------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("name", "model", "reported"),
    [
        ("Claude-4-5-Haiku", "anthropic.claude-haiku-4.5", False),
        ("anthropic/claude-haiku-4-5", "anthropic.claude-haiku-4.5", False),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic.claude-sonnet-4.5", False),
        ("claude-4-sonnet", "anthropic.claude-sonnet-4.5", True),
    ],
)
def test_a_model_answers_to_the_names_of_other_providers(
    deployment: Deployment, name: str, model: str, reported: bool
) -> None:
    answer = deployment.chat(ask(model=name))
    assert (answer.json()["model"], answer.headers["x-proxy-model"]) == (name, model)
    assert ("successor" in answer.headers.get("x-proxy-adjusted", "")) is reported
    assert deployment.http.get(f"/v1/models/{name}").json()["id"] == name


def test_unknown_names_are_a_404_or_served_by_the_default_model(make_deployment: Any) -> None:
    deployment = make_deployment()
    assert deployment.chat(ask(model="gpt-99")).status_code == 404
    assert deployment.chat(ask(model="x" * 100_000)).status_code == 404
    assert deployment.chat({"model": "gpt-99", "messages": 3}).status_code == 404  # before the body is decoded
    deployment = make_deployment({"PROXY_CHAT__DEFAULT_MODEL": "claude-4-6-sonnet"})
    answer = deployment.chat(ask(model="gpt-99"))
    assert (answer.json()["model"], answer.headers["x-proxy-model"]) == ("gpt-99", "anthropic.claude-sonnet-4.6")
    assert "default" in answer.headers["x-proxy-adjusted"]
    mistaken = deployment.chat(ask(model="sk-proj-0123456789"))
    assert (mistaken.json()["model"], mistaken.status_code) == ("[redacted]", 200)


# ---------------------------------------------------------------- tools


def test_as_many_tools_as_allowed_and_not_one_more(deployment: Deployment) -> None:
    tools = [{"type": "function", "function": {"name": f"tool_{index}"}} for index in range(513)]
    assert deployment.chat(ask(tools=tools[:512])).status_code == 200
    assert refusal(deployment, tools=tools) == (400, "tools")


def test_as_many_choices_as_allowed_and_not_one_more(deployment: Deployment) -> None:
    assert len(deployment.chat(ask(n=8)).json()["choices"]) == 8
    assert refusal(deployment, n=9) == (400, "n")


@pytest.mark.parametrize("stream", [False, True])
def test_a_custom_tool_is_called_with_text(deployment: Deployment, stream: bool) -> None:
    text = script(calls=[{"name": "shell", "arguments": {"input": "ls -l"}}, {"name": "clock", "arguments": {}}])
    tools = [{"type": "custom", "custom": {"name": "shell"}}, CLOCK]
    answer = deployment.chat(ask(text, tools=tools, stream=stream))
    if stream:
        deltas = [choice["delta"] for chunk in chunks(answer.content) for choice in chunk["choices"]]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    else:
        calls = answer.json()["choices"][0]["message"]["tool_calls"]
    assert calls[0]["type"] == "custom"
    assert calls[0]["custom"] == {"name": "shell", "input": "ls -l"}
    assert calls[1]["function"] == {"name": "clock", "arguments": "{}"}


def test_a_past_custom_call_reaches_the_model(make_deployment: Any) -> None:
    deployment = make_deployment()
    call = {"id": "c1", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}
    messages = [
        {"role": "user", "content": "List."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "total 0"},
    ]
    answer = deployment.chat({"messages": messages, "tools": [{"type": "custom", "custom": {"name": "shell"}}]})
    assert answer.status_code == 200
    (body,) = deployment.submissions()
    (used,) = [block for turn in body["messages"] for block in turn["content"] if block["type"] == "tool_use"]
    assert (used["name"], used["input"]) == ("shell", {"input": "ls -l"})


def test_hosted_tools_are_refused_or_left_out_by_setting(deployment: Deployment, make_deployment: Any) -> None:
    tools = [CLOCK, {"type": "web_search"}]
    assert refusal(deployment, tools=tools) == (400, "tools[1].type")
    lenient = make_deployment({"PROXY_CHAT__HOSTED_TOOLS": "drop"})
    answer = lenient.chat(ask(tools=tools))
    assert answer.status_code == 200
    assert "web_search" in answer.headers["x-proxy-adjusted"]


# ---------------------------------------------------------------- parameters


def test_a_stop_string_at_the_very_start_leaves_nothing(deployment: Deployment) -> None:
    choice = deployment.chat(ask(script(text="STOP and more"), stop="STOP")).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")


@pytest.mark.parametrize(
    ("metadata", "param"),
    [
        ({"rid": "7d444840-9dc0-11d1-b245-5ffdce74fad2"}, "metadata.rid"),
        ({"k" * 65: "x"}, "metadata"),
        ({"k": "v" * 513}, "metadata.k"),
        ({str(index): "x" for index in range(17)}, "metadata"),
    ],
)
def test_metadata_that_cannot_be_tags_are_refused(deployment: Deployment, metadata: dict[str, str], param: str) -> None:
    assert refusal(deployment, metadata=metadata) == (400, param)


@pytest.mark.parametrize(
    "fields", [{"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"reasoning": {"effort": "low"}}]
)
def test_other_spellings_of_reasoning(deployment: Deployment, fields: dict[str, Any]) -> None:
    message = deployment.chat(ask(**fields)).json()["choices"][0]["message"]
    assert message["reasoning_content"]
    assert "reasoning" not in message


def test_a_json_object_may_have_a_schema(deployment: Deployment) -> None:
    answer = deployment.chat(ask(response_format={"type": "json_object", "schema": NUMBER}))
    assert json.loads(answer.json()["choices"][0]["message"]["content"]).keys() == {"n"}


def test_an_answer_that_does_not_match_a_schema_that_is_not_strict_is_delivered_and_reported(
    deployment: Deployment,
) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": NUMBER}}
    answer = deployment.chat(ask(script(output={"n": "many"}), response_format=schema))
    assert answer.status_code == 200
    assert json.loads(answer.json()["choices"][0]["message"]["content"]) == {"n": "many"}
    assert "n" in answer.headers["x-proxy-unmatched"]
    matching = deployment.chat(ask(script(output={"n": 3}), response_format=schema))
    assert "x-proxy-unmatched" not in matching.headers


def test_nested_fields_without_effect_are_reported(deployment: Deployment) -> None:
    part = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    answer = deployment.chat({"messages": [{"role": "user", "content": [part]}], "seed": 1})
    assert answer.headers["x-proxy-ignored"] == "seed, messages.content.cache_control"


def test_a_participants_name_reaches_the_model(make_deployment: Any) -> None:
    deployment = make_deployment()
    deployment.chat({"messages": [{"role": "user", "name": "Bob", "content": "Hello!"}]})
    assert deployment.submissions()[0]["messages"][-1]["content"][0]["text"] == "Bob: Hello!"


# ---------------------------------------------------------------- delivery


def test_the_status_of_a_paid_failure_is_a_setting(make_deployment: Any) -> None:
    answer = make_deployment().chat(ask(script(fail="It broke")))
    assert (answer.status_code, answer.headers["x-should-retry"]) == (424, "false")
    answer = make_deployment({"PROXY_CHAT__PAID_FAILURE_STATUS": "502"}).chat(ask(script(fail="It broke")))
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "narrative_job_failed")


def test_a_stream_is_delivered_once_its_finish_chunk_was_sent(make_deployment: Any) -> None:
    """A client that stops reading there has its answer: its next equal request is a new one."""
    deployment = make_deployment()
    body = json.dumps({"model": "claude-4-5-haiku", "stream": True, **ask("Hello!")}).encode()
    host, port = deployment.url.removeprefix("http://").split(":")
    for jobs in (1, 2):
        with socket.create_connection((host, int(port)), timeout=30) as client:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer test-key\r\n"
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            received = b""
            while b'"finish_reason":"stop"' not in received:
                received += client.recv(65_536)
        assert deployment.jobs_submitted() == jobs


@pytest.mark.parametrize(
    ("setting", "schema"),
    [
        ("MAX_BYTES", {"type": "object", "description": "x" * 200}),
        ("MAX_DEPTH", {"items": {"items": {"items": {"items": {"items": {"items": {}}}}}}}),
        ("MAX_PROPERTIES", {"type": "object", "properties": {f"p{n}": {} for n in range(10)}}),
        ("MAX_ALTERNATIVES", {"anyOf": [{"const": n} for n in range(10)]}),
    ],
)
def test_the_settings_bound_the_schemas_of_a_request(make_deployment: Any, setting: str, schema: Any) -> None:
    limit = 100 if setting == "MAX_BYTES" else 4
    bounded: Deployment = make_deployment({f"PROXY_SCHEMAS__{setting}": str(limit)})
    answer = bounded.chat(ask(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json_schema")
