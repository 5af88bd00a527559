"""Bytes → request, or a 400 that names the field."""

import json
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.requests import Request
from starlette.types import Message

from proxy.api.elastic.codec import PutNarrative
from proxy.api.http.requests import parse_object, read_object, validated
from proxy.api.openai.types import ChatRequest
from proxy.errors import InvalidRequest
from proxy.settings import ServerSettings

HI = [{"role": "user", "content": "hi"}]


def parse_body(body: bytes) -> ChatRequest:
    return validated(ChatRequest, parse_object(body))


def parse(**fields: object):
    return parse_body(json.dumps({"model": "m", "messages": HI, **fields}).encode())


def refusal(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(body)
    return caught.value


def test_null_is_the_same_as_absent_in_every_optional_field() -> None:
    optional = [
        "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "stream", "stream_options", "tools", "tool_choice",
        "parallel_tool_calls", "functions", "function_call", "extended_thinking", "reasoning_effort", "response_format", "n", "user",
        "metadata",
    ]  # fmt: skip
    with_nulls = parse(**dict.fromkeys(optional))
    assert with_nulls == parse()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b'"x"', b"null", b"{}x", b'{"model": NaN}', b"\xff\xfe{}", '{"model": "é"}'.encode("latin-1"),
        b'{"model": ' + b"[" * 100_000, b'{"model": 1' + b"0" * 10_000 + b"}",
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_a_400_and_never_a_crash(body: bytes) -> None:
    assert refusal(body).status == 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [*HI, {"role": "robot", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        ({"messages": [{"role": "tool", "content": [{"tool_call_id": 1}]}]}, "messages[0].content[0].tool_call_id"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stop": [1]}, "stop[0]"),
        ({"stream": "yes"}, "stream"),
        ({"tools": [{"type": 5}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "x" * 129}}]}, "tools[0].function.name"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"extended_thinking": {"enabled": True, "budget_tokens": 1023}}, "extended_thinking.budget_tokens"),
        ({"extended_thinking": "yes"}, "extended_thinking"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"metadata": []}, "metadata"),
        ({"stream_options": []}, "stream_options"),
    ],
)
def test_a_wrong_field_is_named_with_its_exact_path(fields: dict, param: str) -> None:
    error = refusal(json.dumps({"model": "m", "messages": HI, **fields}).encode())
    assert error.param == param
    assert param in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "nobody"}] * 50},
        {"messages": [{"role": "user", "content": 1}] * 50},
        {"messages": [{"role": "user", "content": [{"type": "text"}] * 50}]},
        {"messages": [{"role": "assistant", "tool_calls": [{}] * 50}]},
        {"messages": [{"role": "tool", "tool_call_id": "c", "content": [{"type": "text"}] * 50}]},
        {"stop": [1] * 50},
        {"tools": [{"type": "function", "function": {}}] * 50},
        {"functions": [{}] * 50},
    ],
)
def test_validation_ends_at_the_first_wrong_item(fields: dict) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate({"model": "m", "messages": HI, **fields})
    assert caught.value.error_count() < 10


@pytest.mark.parametrize(
    "body",
    [
        {"service": "narrative", "service_settings": dict.fromkeys(map(str, range(101)), 1)},
        dict.fromkeys(map(str, range(101)), 1),
    ],
)
def test_a_body_of_elastics_api_has_a_bounded_number_of_fields(body: dict) -> None:
    with pytest.raises(ValidationError, match="at most 100 fields") as caught:
        PutNarrative.model_validate(body)
    assert caught.value.error_count() == 1


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_missing_required_field_is_named(field: str) -> None:
    body = {"model": "m", "messages": HI}
    del body[field]
    assert refusal(json.dumps(body).encode()).param == field


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (rb"half \ud83d here", "half � here"),
        (rb"\udc00\ud800", "��"),
        (rb"\ud83d\ude00", "😀"),
        (rb"C:\\ud800", r"C:\ud800"),
        (rb"\\\ud800", "\\�"),
        (rb"\ud800" * 70_000 + rb"\ud83d\ude00" * 70_000, "�" * 70_000 + "😀" * 70_000),
    ],
    ids=["high", "both", "pair", "text", "after a backslash", "many"],
)
def test_lone_surrogates_become_the_replacement_character(written: bytes, read: str) -> None:
    request = parse_body(b'{"model":"m","messages":[{"role":"user","content":"' + written + b'"}]}')
    assert request.messages[0].content == read


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_a_client_can_write_is_read(text: str) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    content = parse_body(body).messages[0].content
    paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert content is not None
    content.encode()
    assert len(content) <= len(text)
    if text == paired:
        assert content == text


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_body(body)


def test_a_byte_order_mark_is_tolerated() -> None:
    assert parse_body(b"\xef\xbb\xbf" + json.dumps({"model": "m", "messages": HI}).encode()).model == "m"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"type": "text"}] * 1000}],
        [{"role": "user", "content": 5}] * 1000,
        [{"role": "user", "content": [5] * 1000}],
    ],
)
def test_a_list_is_read_up_to_its_first_error(messages: list[object]) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate({"model": "m", "messages": messages})
    assert caught.value.error_count() <= 2, "one for each member of a union"


@pytest.mark.parametrize(("size", "elsewhere"), [(1_000, False), (100_000, True)])
async def test_a_large_body_does_not_hold_up_the_event_loop(size: int, elsewhere: bool) -> None:
    body = json.dumps({"text": "x" * size}).encode()

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    api = SimpleNamespace(settings=SimpleNamespace(server=ServerSettings()))
    request = Request({"type": "http", "method": "POST", "headers": [], "state": {"api": api}}, receive)
    thread, length = await read_object(request, lambda _, length: (threading.current_thread(), length))
    assert (thread is not threading.current_thread()) is elsewhere
    assert length == len(body)
