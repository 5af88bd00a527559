"""Results and events → messages and streams, judged by Anthropic's own types; errors by status."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.anthropic.decode import MessagesReply
from proxy.api.anthropic.encode import MessageStream, error_out, error_status, fold, message, message_body
from proxy.api.anthropic.routes import error_response, limit_headers
from proxy.errors import (
    ContextLengthExceeded,
    IdempotencyConflict,
    IdempotencyMismatch,
    InternalError,
    InvalidApiKey,
    InvalidRequest,
    JobTimeout,
    MethodNotAllowed,
    ModelNotFound,
    Overloaded,
    PaidFailure,
    PermissionDenied,
    ProxyError,
    RateLimited,
    RequestTooLarge,
    StoreUnavailable,
    UnknownUrl,
    UpstreamError,
)
from proxy.inference.request import ToolCall
from proxy.inference.result import Choice, ChoiceEnded, Ended, NativeEvent, Result, Started, Usage, result_events
from tests.messages_folding import assert_message_is_anthropics, fold_messages, stream_events

REPLY = MessagesReply("claude", input_tokens=7)
ID = "a81e1460fbdc4204bd76a9e496bf760d"


def result_of(*, usage: Usage | None = None, **choice: Any) -> Result:
    return Result(ID, 1, "fp", (Choice(**choice),), usage or Usage(10, 5, 15))


def streamed(result: Result, reply: MessagesReply = REPLY) -> bytes:
    stream = MessageStream(reply, "req_1")
    return b"".join(data for event in result_events(result) for data in stream.encode(event)) + stream.end


def both_ways(reply: MessagesReply = REPLY, **choice: Any) -> dict[str, Any]:
    """The whole message, after asserting that its types are Anthropic's and that its stream folds to the same."""
    whole = message(result_of(**choice), reply)
    assert_message_is_anthropics(whole)
    assert fold_messages(stream_events(streamed(result_of(**choice), reply))) == whole
    return whole


def test_a_whole_message() -> None:
    assert both_ways(text="Hello.") == {
        "id": "msg_a81e1460fbdc4204bd76a9e4",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [{"type": "text", "text": "Hello.", "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "usage": {
            "input_tokens": 10,
            "output_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "server_tool_use": None,
            "service_tier": "standard",
        },
    }


def test_thinking_text_and_calls_stand_in_this_order() -> None:
    calls = (ToolCall("0" * 24, "get.weather", {"city": "Ulm"}), ToolCall("toolu_" + "A" * 24, "now", {}))
    whole = both_ways(text="I look.", reasoning="Hm.", tool_calls=calls, finish_reason="tool_calls")
    thinking, text, first, second = whole["content"]
    assert (thinking["thinking"], bool(thinking["signature"]), text["text"]) == ("Hm.", True, "I look.")
    assert (first["name"], first["input"]) == ("get.weather", {"city": "Ulm"})
    assert re.fullmatch(r"toolu_[A-Za-z0-9]{24}", first["id"])
    assert (second["id"], second["input"]) == ("toolu_" + "A" * 24, {})
    assert whole["stop_reason"] == "tool_use"


def test_thinking_that_is_omitted_leaves_its_block_and_signature() -> None:
    reply = MessagesReply("claude", thinking_shown=False)
    thinking, _ = both_ways(reply, text="Hello.", reasoning="Hm.")["content"]
    assert thinking["thinking"] == ""
    assert thinking["signature"]
    assert b"thinking_delta" not in streamed(result_of(text="Hello.", reasoning="Hm."), reply)


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"text": "a"}, "end_turn"),
        ({"text": "a", "finish_reason": "length"}, "max_tokens"),
        ({"text": "", "finish_reason": "length"}, "max_tokens"),
        ({"text": "", "finish_reason": "content_filter"}, "refusal"),
        ({"text": "a", "stop_sequence": "END"}, "stop_sequence"),
        ({"text": "", "stop_sequence": "END"}, "stop_sequence"),
        ({"tool_calls": (ToolCall("1", "a", {}),), "finish_reason": "tool_calls"}, "tool_use"),
    ],
)
def test_stop_reasons(choice: dict[str, Any], reason: str) -> None:
    whole = both_ways(**choice)
    assert whole["stop_reason"] == reason
    assert whole["stop_sequence"] == choice.get("stop_sequence")
    assert (whole["stop_details"] is not None) is (reason == "refusal")
    assert len(whole["content"]) == bool(choice.get("text")) + len(choice.get("tool_calls", ()))


def test_input_tokens_are_never_zero() -> None:
    assert message(result_of(text="a", usage=Usage()), REPLY)["usage"]["input_tokens"] == 7
    events = stream_events(streamed(result_of(text="a")))
    assert events[0]["message"]["usage"]["input_tokens"] == 7
    assert events[-2]["usage"]["input_tokens"] == 10


def test_no_character_ends_a_line() -> None:
    raw = streamed(result_of(text="a\u2028b\u2029c\u0085d\r\ne"))
    assert b"\r" not in raw
    assert not re.search("[\u2028\u2029\u0085]", raw.decode())
    assert fold_messages(stream_events(raw))["content"][0]["text"] == "a\u2028b\u2029c\u0085d\r\ne"


@given(
    st.one_of(st.none(), st.text(min_size=1)),
    st.one_of(st.none(), st.text(min_size=1)),
    st.lists(
        st.dictionaries(st.text(), st.one_of(st.integers(-9, 9), st.text(), st.booleans()), max_size=3), max_size=3
    ),
)
def test_streams_fold_back(text: str | None, reasoning: str | None, calls: list[dict[str, Any]]) -> None:
    made = tuple(ToolCall(f"{number}", "a", arguments) for number, arguments in enumerate(calls))
    both_ways(text=text, reasoning=reasoning, tool_calls=made, finish_reason="tool_calls" if made else "stop")


def test_integers_of_any_size_are_delivered() -> None:
    call = ToolCall("1", "f", {"n": 2**70})
    assert json.loads(message_body(REPLY, result_of(tool_calls=(call,), finish_reason="tool_calls")))["content"][0] == {
        **message(result_of(tool_calls=(call,)), REPLY)["content"][0],
        "input": {"n": 2**70},
    }


def test_heartbeats_are_pings() -> None:
    assert MessageStream(REPLY).heartbeat() == b'event: ping\ndata: {"type":"ping"}\n\n'


# ---------------------------------------------------------------- native events


NATIVE: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"id": "msg_1", "model": "upstream", "content": [], "stop_reason": None, "usage": {"input_tokens": 3, "new": {"a": 1}}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "m."}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "signed"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"q": '}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '"a"}'}},
    {"type": "content_block_stop", "index": 1},
    {"type": "content_block_start", "index": 2, "content_block": {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "u"}]}},
    {"type": "content_block_stop", "index": 2},
    {"type": "content_block_start", "index": 3, "content_block": {"type": "text", "text": "", "citations": []}},
    {"type": "content_block_delta", "index": 3, "delta": {"type": "citations_delta", "citation": {"url": "u"}}},
    {"type": "content_block_delta", "index": 3, "delta": {"type": "text_delta", "text": "Said."}},
    {"type": "content_block_stop", "index": 3},
    {"type": "content_block_start", "index": 4, "content_block": {"type": "compaction", "content": None}},
    {"type": "content_block_delta", "index": 4, "delta": {"type": "compaction_delta", "content": "Short."}},
    {"type": "content_block_stop", "index": 4},
    {"type": "content_block_start", "index": 5, "content_block": {"type": "tool_use", "id": "t", "name": "cut", "input": {}}},
    {"type": "content_block_delta", "index": 5, "delta": {"type": "input_json_delta", "partial_json": '{"a'}},
    {"type": "content_block_stop", "index": 5},
    {"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": None}, "usage": {"input_tokens": None, "output_tokens": 9}},
    {"type": "message_stop"},
]  # fmt: skip


def test_native_events_are_passed_on_with_the_model_that_was_asked_for() -> None:
    stream = MessageStream(REPLY)
    neutral = [
        Started("1", 1, "fp", 1, native=True),
        *map(NativeEvent, NATIVE),
        ChoiceEnded(0, "length"),
        Ended(Usage(3, 9, 12)),
    ]
    passed = stream_events(b"".join(data for event in neutral for data in stream.encode(event)) + stream.end)
    assert passed[0]["message"] == {**NATIVE[0]["message"], "model": "claude"}
    assert passed[1:] == NATIVE[1:]


def test_native_events_fold_to_a_message() -> None:
    whole = message(Result("1", 1, "fp", (Choice(),), Usage(), tuple(NATIVE)), REPLY)
    assert whole == {
        "id": "msg_1",
        "model": "claude",
        "content": [
            {"type": "thinking", "thinking": "Hmm.", "signature": "signed"},
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": "a"}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "u"}]},
            {"type": "text", "text": "Said.", "citations": [{"url": "u"}]},
            {"type": "compaction", "content": "Short."},
            {"type": "tool_use", "id": "t", "name": "cut", "input": {}},
        ],
        "stop_reason": "max_tokens",
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "new": {"a": 1}, "output_tokens": 9},
    }
    assert fold(NATIVE)["content"] == whole["content"]
    assert fold([*NATIVE, {"new": 1}, {"type": "content_block_delta", "index": 0}]) == fold(NATIVE)
    assert NATIVE[0]["message"]["content"] == [], "events are not changed"


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequest("m"), 400, "invalid_request_error"),
        (InvalidApiKey("m"), 401, "authentication_error"),
        (PermissionDenied("m"), 403, "permission_error"),
        (ModelNotFound("m"), 404, "not_found_error"),
        (UnknownUrl("m"), 404, "not_found_error"),
        (MethodNotAllowed("m"), 405, "invalid_request_error"),
        (IdempotencyConflict("m"), 409, "conflict_error"),
        (RequestTooLarge("m"), 413, "request_too_large"),
        (IdempotencyMismatch("m"), 422, "invalid_request_error"),
        (RateLimited("m"), 429, "rate_limit_error"),
        (InternalError("m"), 500, "api_error"),
        (UpstreamError("m"), 502, "api_error"),
        (Overloaded("m"), 529, "overloaded_error"),
        (StoreUnavailable("m"), 529, "overloaded_error"),
        (JobTimeout("m"), 504, "timeout_error"),
        (PaidFailure("m", job_id="j"), 502, "api_error"),
        (PaidFailure("m"), 502, "api_error"),
        (InvalidRequest("m", job_id="j"), 502, "api_error"),
        (ModelNotFound("m", job_id="j"), 502, "api_error"),
        (IdempotencyMismatch("m", job_may_exist=True), 502, "api_error"),
        (PermissionDenied("m", job_id="j"), 403, "permission_error"),
        (RateLimited("m", job_id="j"), 429, "rate_limit_error"),
        (ContextLengthExceeded("m", job_id="j"), 400, "invalid_request_error"),
    ],
)
def test_errors_by_status(error: ProxyError, status: int, kind: str) -> None:
    assert error_status(error) == status
    body = error_out(error, "req_1")
    assert (body["type"], body["error"]["type"], body["request_id"]) == ("error", kind, "req_1")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InvalidRequest("Invalid `messages[2].content[0].text`: expected text.", param="messages[2].content[0].text"), "messages.2.content.0.text: expected text."),
        (InvalidRequest("`tools[0].name` is blank.", param="tools[0].name"), "tools.0.name: `tools.0.name` is blank."),
        (InvalidRequest("Wrong.", param="Idempotency-Key"), "Wrong."),
        (InvalidRequest("The request body is not JSON."), "The request body is not JSON."),
        (ModelNotFound("model: gpt-9", param="model"), "model: gpt-9"),
        (ContextLengthExceeded("Too much.", param="messages"), "prompt is too long: Too much."),
        (ContextLengthExceeded("Narrative: prompt is too long: 3 tokens > 2 maximum"), "Narrative: prompt is too long: 3 tokens > 2 maximum"),
    ],
)  # fmt: skip
def test_messages_begin_with_the_path_in_dots(error: ProxyError, message: str) -> None:
    assert error_out(error, "")["error"]["message"] == message


def test_messages_are_bounded() -> None:
    assert len(error_out(InvalidRequest("x" * 9_000), "")["error"]["message"]) == 2_000


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PaidFailure("m", job_id="j"), "api_error"),
        (JobTimeout("m", job_id="j"), "timeout_error"),
        (Overloaded("m", job_id="j"), "api_error"),
        (StoreUnavailable("m"), "api_error"),
    ],
)
def test_an_error_event_is_never_one_of_an_overload(error: ProxyError, kind: str) -> None:
    [event] = stream_events(MessageStream(REPLY, "req_1").error(error))
    assert (event["type"], event["error"]["type"], event["request_id"]) == ("error", kind, "req_1")


SCOPE: dict[str, Any] = {"state": {"request_id": "req_1"}}


def test_responses_of_errors_say_whether_to_repeat() -> None:
    paid = error_response(SCOPE, PaidFailure("m", job_id="j"))
    assert (paid.status_code, paid.headers["x-should-retry"], "retry-after" in paid.headers) == (502, "false", False)
    assert paid.headers["x-narrative-job-id"] == "j"
    late = error_response(SCOPE, JobTimeout("m", retry_after=1, job_id="j"))
    assert (late.status_code, late.headers["x-should-retry"], late.headers["retry-after"]) == (504, "true", "1")
    assert json.loads(bytes(late.body))["request_id"] == "req_1"


def test_limits_by_the_names_of_this_api() -> None:
    limits = {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "12.250s",
        "x-ratelimit-limit-tokens": "900",
        "x-other": "x",
    }
    now = datetime(2026, 1, 1, 23, 59, 50, tzinfo=UTC)
    expected = {
        "anthropic-ratelimit-requests-limit": "3",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2026-01-02T00:00:03Z",
        "anthropic-ratelimit-tokens-limit": "900",
    }
    assert limit_headers(limits, now) == expected
    error = RateLimited("m", retry_after=2)
    error.headers.update(limits)
    headers = error_response(SCOPE, error).headers
    assert headers["anthropic-ratelimit-requests-limit"] == "3"
    assert "x-ratelimit-limit-requests" not in headers
    assert (headers["x-other"], headers["retry-after"]) == ("x", "2")
