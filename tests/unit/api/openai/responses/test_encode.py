"""Results → response objects and events, judged by OpenAI's own strict types; folding the events gives the object."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses.response_item_list import ResponseItemList

from proxy.api.openai.responses.decode import ResponseReply
from proxy.api.openai.responses.encode import (
    ITEM_ID,
    failed,
    finished,
    input_item,
    response_object,
)
from proxy.api.openai.responses.stream import ResponseStreamEncoder, begin_events, end_events, event_bytes
from proxy.api.openai.responses.tools import CalledTool
from proxy.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    JobTimeout,
    PaidFailure,
    ProxyError,
    RateLimited,
)
from proxy.inference.request import ToolCall
from proxy.inference.result import Choice, Event, FinishReason, Result, Usage, result_events
from tests.responses_folding import assert_response_is_openais, fold_items, response_events
from tests.unit.api.openai.responses.test_decode import decoded

ID = "0123456789abcdef" * 2
NOW = 1_700_000_009
TOOLS = {
    "weather": CalledTool("weather"),
    "ns__weather": CalledTool("weather", "ns"),
    "patch": CalledTool("patch", custom=True),
    "ns__patch": CalledTool("patch", "ns", custom=True),
}
PLAIN = decoded()[1]


def reply(**fields: Any) -> ResponseReply:
    values: dict[str, Any] = {"echo": PLAIN.echo, "tools": TOOLS, "summary": True, "encrypted": True, **fields}
    return ResponseReply(**values)


def result(text: str | None = "Hello there.", *calls: ToolCall, finish: FinishReason = "stop", **fields: Any) -> Result:
    choice = Choice(text, calls, finish_reason="tool_calls" if calls else finish, **fields)
    return Result("job1", 1_700_000_000, "fp", (choice,), Usage(8, 5, 13))


def seal(text: str) -> str:
    return f"sealed:{text}"


def whole(made: Result, how: ResponseReply) -> dict[str, Any]:
    response = finished(ID, made, how, seal, NOW)
    assert_response_is_openais(response)
    return response


def streamed(made: Result, how: ResponseReply, events: list[Event] | None = None) -> list[dict[str, Any]]:
    encoder = ResponseStreamEncoder(how, seal)
    data = encoder.begin(ID, made.created)
    for event in result_events(made) if events is None else events:
        data += b"".join(encoder.encode(event))
    return response_events(data + encoder.finish(encoder.finished(NOW)))


# ---------------------------------------------------------------- the object


def test_an_answer() -> None:
    response = whole(result(), reply())
    assert response == {
        **PLAIN.echo,
        "id": f"resp_{ID}",
        "object": "response",
        "created_at": 1_700_000_000,
        "completed_at": NOW,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "output": [
            {
                "id": f"msg_{ID}0",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Hello there.", "annotations": [], "logprobs": []}],
            }
        ],
        "usage": {
            "input_tokens": 8,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 13,
        },
    }


MEMBERS = """id object created_at completed_at status background error incomplete_details instructions max_output_tokens max_tool_calls
    model output parallel_tool_calls previous_response_id prompt_cache_key reasoning safety_identifier service_tier store temperature text
    tool_choice tools top_logprobs top_p truncation usage user metadata"""


def test_the_object_has_every_member_of_the_contract() -> None:
    assert set(whole(result(), reply())) == set(MEMBERS.split())


def test_the_request_is_echoed() -> None:
    asked: dict[str, Any] = {
        "instructions": "Be kind.",
        "max_output_tokens": 50,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "reasoning": {"effort": "low", "summary": "auto"},
        "safety_identifier": "s",
        "service_tier": "flex",
        "temperature": 0.5,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"},
        "tool_choice": {"type": "function", "name": "f"},
        "tools": [{"type": "function", "name": "f", "parameters": None}, {"type": "web_search"}],
        "top_p": 0.9,
        "truncation": "auto",
        "user": "u",
    }
    response = whole(result(), decoded(**asked)[1])
    expected = {**asked, "service_tier": "default", "tools": [{**asked["tools"][0], "strict": True}, asked["tools"][1]]}
    assert {name: response[name] for name in asked} == expected


def test_what_was_not_asked_for_is_echoed_as_openais_defaults() -> None:
    response = whole(result(), decoded(max_tool_calls="many", prompt_cache_key=["k"])[1])
    assert (response["max_tool_calls"], response["prompt_cache_key"]) == (None, None)
    expected = {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_logprobs": 0,
        "tool_choice": "auto",
        "truncation": "disabled",
        "parallel_tool_calls": True,
        "store": True,
        "background": False,
        "metadata": {},
        "reasoning": {"effort": None, "summary": None},
        "text": {"format": {"type": "text"}},
    }
    assert {name: response[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [("length", "incomplete", "max_output_tokens"), ("content_filter", "incomplete", "content_filter")],
)
def test_an_answer_that_was_cut(finish: FinishReason, status: str, reason: str) -> None:
    response = whole(result("Hel", finish=finish), reply())
    assert (response["status"], response["incomplete_details"]) == (status, {"reason": reason})
    assert response["output"][0]["status"] == "incomplete"
    assert streamed(result("Hel", finish=finish), reply())[-1] == {
        "type": "response.incomplete",
        "sequence_number": 8,
        "response": response,
    }


CALL = ToolCall("abc", "weather", {"city": "Rome"})


@pytest.mark.parametrize(
    ("call", "item"),
    [
        (CALL, {"type": "function_call", "id": f"fc_{ID}0", "name": "weather", "arguments": '{"city":"Rome"}'}),
        (
            ToolCall("abc", "ns__weather", {}),
            {"type": "function_call", "id": f"fc_{ID}0", "name": "weather", "namespace": "ns", "arguments": "{}"},
        ),
        (
            ToolCall("abc", "patch", {"input": "*** Begin"}),
            {"type": "custom_tool_call", "id": f"ctc_{ID}0", "name": "patch", "input": "*** Begin"},
        ),
        (
            ToolCall("abc", "ns__patch", {"input": ""}),
            {"type": "custom_tool_call", "id": f"ctc_{ID}0", "name": "patch", "namespace": "ns", "input": ""},
        ),
    ],
)
def test_calls(call: ToolCall, item: dict[str, Any]) -> None:
    output = whole(result(None, call), reply())["output"]
    assert output == [{**item, "call_id": "call_abc", "status": "completed"}]


def test_an_id_that_has_a_prefix_keeps_it() -> None:
    call = ToolCall("toolu_1", "weather", {})
    assert whole(result(None, call), reply())["output"][0]["call_id"] == "toolu_1"


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ({"summary": True, "encrypted": False}, {"summary": [{"type": "summary_text", "text": "Hm."}]}),
        ({"summary": False, "encrypted": True}, {"summary": [], "encrypted_content": "sealed:Hm."}),
        (
            {"summary": True, "encrypted": True},
            {"summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "sealed:Hm."},
        ),
        ({"summary": False, "encrypted": False}, None),
    ],
)
def test_reasoning_is_first_and_only_where_it_was_asked_for(
    how: dict[str, bool], wanted: dict[str, Any] | None
) -> None:
    made = result("Yes.", CALL, reasoning="Hm.")
    response = whole(made, reply(**how))
    items = [{"id": f"rs_{ID}0", "type": "reasoning", **wanted}] if wanted else []
    assert [item["type"] for item in response["output"]] == [
        *(["reasoning"] if wanted else []),
        "message",
        "function_call",
    ]
    assert response["output"][: len(items)] == items
    assert fold_items(streamed(made, reply(**how))) == response["output"]


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_an_empty_message_is_left_out_beside_calls(text: str | None) -> None:
    made = result(text, CALL)
    assert [item["type"] for item in whole(made, reply())["output"]] == ["function_call"]
    assert fold_items(streamed(made, reply())) == whole(made, reply())["output"]


def test_an_empty_answer_is_an_empty_message() -> None:
    assert whole(result(""), reply())["output"][0]["content"][0]["text"] == ""


# ---------------------------------------------------------------- events


def test_the_events_come_in_the_contracts_order() -> None:
    made = result("Hi.", CALL, ToolCall("d", "patch", {"input": "x"}), reasoning="Hm.")
    events = streamed(made, reply())
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
        "completed",
    ]
    assert events[0]["response"]["status"] == "in_progress"
    assert (events[0]["response"]["output"], events[0]["response"]["usage"]) == ([], None)
    assert events[16]["name"] == "weather"


TEXTS = st.text(st.sampled_from("ab \n\u2028\u2029\u0085é👩‍🚀"), max_size=60)
CALLS = st.builds(
    ToolCall,
    st.text("0123456789abcdef", min_size=24, max_size=24),
    st.sampled_from([*TOOLS, "unknown"]),
    st.dictionaries(TEXTS, TEXTS | st.integers(), max_size=2),
)
CHOICES = st.builds(
    Choice,
    st.none() | TEXTS,
    st.lists(CALLS, max_size=3).map(tuple),
    st.none() | TEXTS.filter(bool),
    st.sampled_from(["stop", "length", "content_filter"]),
)


@given(choice=CHOICES, summary=st.booleans(), encrypted=st.booleans())
def test_folding_the_events_gives_the_response(choice: Choice, summary: bool, encrypted: bool) -> None:
    how = reply(summary=summary, encrypted=encrypted)
    made = Result("job1", 1_700_000_000, "fp", (choice,), Usage(8, 5, 13))
    response = whole(made, how)
    events = streamed(made, how)
    assert fold_items(events) == response["output"]
    assert events[-1]["response"] == response
    again = [*begin_events(response), *end_events(response, 2)]
    assert fold_items(response_events(b"".join(map(event_bytes, again)))) == response["output"]
    assert [event["sequence_number"] for event in again] == list(range(len(again)))
    ids = [item["id"] for item in response["output"]]
    assert len(set(ids)) == len(ids)
    assert all((parts := ITEM_ID.match(id_)) and parts[1] == ID for id_ in ids)


def test_line_separators_are_escaped() -> None:
    encoder = ResponseStreamEncoder(reply(), seal)
    encoder.begin(ID, 1)
    data = b"".join(data for event in result_events(result("a\u2028b\u2029c\u0085d")) for data in encoder.encode(event))
    assert not any(character in data.decode() for character in "\u2028\u2029\u0085\r")


@pytest.mark.parametrize("background", [False, True])
def test_what_is_large_of_a_request_is_repeated_in_the_first_event_only(background: bool) -> None:
    large = "x" * 20_000
    tools = [{"type": "function", "name": "f", "description": large}]
    text = {"format": {"type": "json_schema", "name": "s", "schema": {"description": large}}}
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f", "of": large}]}
    texts = dict.fromkeys(("instructions", "prompt_cache_key", "user", "safety_identifier"), large)
    _, how = decoded(tools=tools, text=text, tool_choice=choice, background=background, **texts)
    begun = response_object(ID, 1, how, "queued" if background else "in_progress")
    stored = [*begin_events(begun, large=True)]
    for first, *others in (stored, response_events(ResponseStreamEncoder(how, seal).begin(ID, 1))):
        assert first["response"] == {**begun, "status": first["response"]["status"]}
        for event in others:
            assert_response_is_openais(event["response"])
            assert event["response"]["metadata"] == begun["metadata"]
            assert len(json.dumps(event)) < 2_000
    assert [event["response"] for event in begin_events(begun)][:-1] == [begun] * len(stored[:-1])


def test_heartbeats_are_events_that_are_counted_and_slim() -> None:
    how = reply(echo={**PLAIN.echo, "tools": [{"type": "web_search"}], "instructions": "Be kind."})
    encoder = ResponseStreamEncoder(how, seal)
    assert encoder.heartbeat().startswith(b":")
    events = response_events(encoder.begin(ID, 1) + encoder.heartbeat() + encoder.heartbeat())
    assert [event["type"] for event in events[1:]] == ["response.in_progress"] * 3
    assert events[0]["response"]["tools"]
    assert (events[-1]["response"]["tools"], events[-1]["response"]["instructions"]) == ([], None)


def test_a_background_response_is_queued_first() -> None:
    response = whole(result(), decoded(background=True)[1])
    events = response_events(b"".join(map(event_bytes, [*begin_events(response), *end_events(response, 3)])))
    assert [event["type"] for event in events[:3]] == [
        f"response.{name}" for name in ("created", "queued", "in_progress")
    ]
    assert [event["response"]["status"] for event in events[:3]] == ["queued", "queued", "in_progress"]
    assert events[-1]["response"] == response


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ContextLengthExceeded("Too long."), "context_length_exceeded", "Too long."),
        (InvalidRequest("Wrong.", code="invalid_json_schema"), "invalid_prompt", "invalid_json_schema: Wrong."),
        (InvalidRequest("Wrong."), "invalid_prompt", "Wrong."),
        (RateLimited("Too fast.", retry_after=1.5), "rate_limit_exceeded", "Too fast; please try again in 1.5s."),
        (RateLimited("Too fast."), "rate_limit_exceeded", "Too fast."),
        (PaidFailure("Broken.", code="narrative_job_failed"), "server_error", "narrative_job_failed: Broken."),
        (JobTimeout("Late."), "server_error", "job_timeout: Late."),
        (ProxyError("Oh."), "server_error", "Oh."),
    ],
)
def test_a_failure_is_the_last_event(error: ProxyError, code: str, message: str) -> None:
    encoder = ResponseStreamEncoder(reply(), seal)
    made = result("One two three four five six.")
    data = encoder.begin(ID, 1)
    for event in list(result_events(made))[:2]:
        data += b"".join(encoder.encode(event))
    # OpenAI's type does not list this code, which Codex acts on.
    last = response_events(data + encoder.error(error), judged=code != "context_length_exceeded")[-1]
    assert last["type"] == "response.failed"
    response = last["response"]
    assert (response["status"], response["output"], response["usage"]) == ("failed", [], None)
    assert response["error"] == {"code": code, "message": message}


def test_a_cancelled_response_ends_as_failed() -> None:
    response = response_object(ID, 1, decoded(background=True)[1], "cancelled")
    last = list(end_events(response, 3))
    assert [(event["type"], event["response"]["status"]) for event in last] == [("response.failed", "cancelled")]
    assert_response_is_openais(response)
    assert_response_is_openais(failed(response, PaidFailure("x")))


# ---------------------------------------------------------------- stored items


def test_listed_items_have_ids_and_parts() -> None:
    given_items = [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Yes."},
        {"type": "function_call", "id": None, "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "id": "mine", "call_id": "c", "output": "x"},
    ]
    listed = [input_item(ID, index, item) for index, item in enumerate(given_items)]
    assert [item["id"] for item in listed] == [f"msg_{ID}i0", f"msg_{ID}i1", f"fc_{ID}i2", "mine"]
    assert listed[0]["content"] == [{"type": "input_text", "text": "Hi."}]
    page = {"object": "list", "data": listed, "first_id": listed[0]["id"], "last_id": "mine", "has_more": False}
    ResponseItemList.model_validate(page)


@pytest.mark.parametrize("content", ["x", 5, [1], None])
def test_an_item_that_names_neither_type_nor_role_is_listed_as_the_reference_it_was_taken_for(content: Any) -> None:
    item = {"id": "rs_elsewhere", "content": content}
    assert input_item(ID, 0, item) == {**item, "type": "item_reference"}
