"""The official `openai` Python library against the running proxy, over a real socket."""

import json
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.conftest import Deployment
from tests.folding import assert_completion_is_openais, fold
from tests.scripts import script

MODEL = "claude-4-5-haiku"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The current weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
            "required": ["city"],
        },
    },
}
TIME: Any = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}},
}


@pytest.fixture
def client(deployment: Deployment) -> OpenAI:
    return OpenAI(base_url=f"{deployment.url}/v1", api_key="test-key", max_retries=0)


def ask(client: OpenAI, text: str, **options: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **options)


def both_ways(client: OpenAI, text: str, **options: Any) -> Any:
    """The plain answer, after asserting that the streamed one, folded, says the same."""
    plain = ask(client, text, **options)
    assert_completion_is_openais(plain.model_dump())
    chunks = [chunk.model_dump(exclude_unset=True) for chunk in ask(client, text, stream=True, **options)]
    folded = fold(chunks)
    assert _said(folded) == _said(plain.model_dump(exclude_unset=True))
    return plain


def _said(completion: dict[str, Any]) -> list[Any]:
    """What the choices say, without the ids, which differ from job to job."""
    said = []
    for choice in completion["choices"]:
        message = {key: value for key, value in choice["message"].items() if value is not None}
        calls = [call["function"] for call in message.pop("tool_calls", None) or []]
        said.append((choice["index"], choice["finish_reason"], message, calls))
    return said


def test_plain(client: OpenAI) -> None:
    completion = ask(client, "Hello!")
    choice = completion.choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.content
    assert completion.model == MODEL
    assert completion.id.startswith("chatcmpl-")
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens > 0


def test_plain_and_streamed_say_the_same(client: OpenAI) -> None:
    text = "Some **Markdown**:\n\n```python\n    x = 1\n```\n  end  "
    assert both_ways(client, script(text=text)).choices[0].message.content == text


def test_usage_of_a_stream_comes_in_one_last_chunk_without_choices_and_only_when_asked_for(client: OpenAI) -> None:
    chunks = list(ask(client, "Hello!", stream=True, stream_options={"include_usage": True}))
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens > 0
    assert all("usage" in chunk.model_fields_set for chunk in chunks)
    assert all("usage" not in chunk.model_fields_set for chunk in ask(client, "Hello!", stream=True))


def test_stream_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=[{"role": "user", "content": "Hello!"}]) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "content.delta" in kinds
    assert final.choices[0].message.content


def test_tools_auto_calls_when_the_words_suggest_it(client: OpenAI) -> None:
    choice = both_ways(client, "What is the weather in Paris?", tools=[WEATHER]).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    call = choice.message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] == "Paris"


def test_tools_auto_may_also_just_answer(client: OpenAI) -> None:
    choice = both_ways(client, script(text="No need."), tools=[WEATHER]).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.content == "No need."
    assert choice.message.tool_calls is None


def test_tools_required(client: OpenAI) -> None:
    choice = both_ways(client, "Hello!", tools=[WEATHER, TIME], tool_choice="required").choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls


def test_a_named_tool_is_called_exactly_once(client: OpenAI) -> None:
    named = {"type": "function", "function": {"name": "get_time"}}
    choice = both_ways(client, "weather, weather!", tools=[WEATHER, TIME], tool_choice=named).choices[0]
    assert [call.function.name for call in choice.message.tool_calls] == ["get_time"]


def test_tool_choice_none_calls_nothing(client: OpenAI) -> None:
    choice = both_ways(client, "What is the weather in Paris?", tools=[WEATHER], tool_choice="none").choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.tool_calls is None
    assert choice.message.content


TWO_CALLS = script(
    calls=[
        {"name": "get_weather", "arguments": {"city": "Rome"}},
        {"name": "get_weather", "arguments": {"city": "Oslo"}},
    ]
)


def test_parallel_calls_keep_their_own_index_and_id(client: OpenAI) -> None:
    calls = both_ways(client, TWO_CALLS, tools=[WEATHER]).choices[0].message.tool_calls
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Rome", "Oslo"]
    assert len({call.id for call in calls}) == 2


def test_parallel_tool_calls_false_is_enforced_on_the_result(client: OpenAI) -> None:
    calls = both_ways(client, TWO_CALLS, tools=[WEATHER], parallel_tool_calls=False).choices[0].message.tool_calls
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Rome"]


def test_a_full_tool_loop_ends_in_an_answer(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    ids: list[str] = []
    for _ in range(4):
        message = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER]).choices[0].message
        messages.append(message.model_dump(exclude_unset=True))
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            ids.append(call.id)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "18 degrees and sunny"})
    assert messages[-1]["role"] == "assistant"
    assert "18 degrees" in messages[-1]["content"]
    assert len(ids) == len(set(ids)) == 1


class City(BaseModel):
    name: str
    population: int
    twin: "City | None" = None


def test_parse_with_a_recursive_pydantic_model(client: OpenAI) -> None:
    completion = client.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": "Describe Paris"}], response_format=City
    )
    assert isinstance(completion.choices[0].message.parsed, City)


def test_json_object(client: OpenAI) -> None:
    choice = both_ways(client, "Give me JSON", response_format={"type": "json_object"}).choices[0]
    assert isinstance(json.loads(choice.message.content), dict)


def test_an_array_as_structured_output_is_wrapped_and_unwrapped(client: OpenAI) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 2}
    wanted = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": schema, "strict": True}}
    numbers = json.loads(both_ways(client, "Numbers", response_format=wanted).choices[0].message.content)
    assert isinstance(numbers, list)
    assert len(numbers) >= 2


def test_thinking_with_its_trace(client: OpenAI) -> None:
    message = (
        both_ways(client, "Think!", extra_body={"extended_thinking": {"enabled": True, "budget_tokens": 1024}})
        .choices[0]
        .message
    )
    assert message.content
    assert message.reasoning_content
    assert message.reasoning == {"thinking": message.reasoning_content}


def test_thinking_without_its_trace(client: OpenAI) -> None:
    thinking = {"enabled": True, "budget_tokens": 1024, "include_reasoning": False}
    message = both_ways(client, "Think!", extra_body={"extended_thinking": thinking}).choices[0].message
    assert message.content
    assert not {"reasoning", "reasoning_content"} & message.model_dump(exclude_unset=True).keys()


def test_reasoning_effort_gives_the_trace_as_one_string_field(client: OpenAI) -> None:
    message = both_ways(client, "Think!", reasoning_effort="low").choices[0].message
    assert message.reasoning_content
    assert "reasoning" not in message.model_dump(exclude_unset=True)


def test_n_choices_each_with_its_own_index_and_usage_summed(client: OpenAI) -> None:
    one = ask(client, "Hello!")
    two = both_ways(client, "Hello!", n=2)
    assert [choice.index for choice in two.choices] == [0, 1]
    assert two.usage.prompt_tokens == 2 * one.usage.prompt_tokens


def test_stop_cuts_the_decoded_text(client: OpenAI) -> None:
    choice = both_ways(client, script(text="one END two STOP"), stop=["STOP", "END"]).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("one ", "stop")


def test_length_when_the_reply_runs_out_of_tokens(client: OpenAI) -> None:
    choice = both_ways(client, script(text="word " * 400), max_tokens=5).choices[0]
    assert choice.finish_reason == "length"


def test_length_when_the_headroom_would_let_more_words_pass_than_were_asked_for(client: OpenAI) -> None:
    choice = both_ways(client, script(text="one two three four five six"), max_tokens=3).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("one two three", "length")


@pytest.mark.parametrize(
    ("kind", "options", "code"),
    [
        (openai.NotFoundError, {"model": "gpt-99"}, "model_not_found"),
        (openai.BadRequestError, {"temperature": 3}, None),
        (openai.BadRequestError, {"messages": [{"role": "user", "content": script(fail="prompt is too long: 9 > 8")}]}, "context_length_exceeded"),
        (openai.BadRequestError, {"messages": [{"role": "user", "content": script(fail="Invalid schema")}], "max_tokens": 77}, "invalid_json_schema"),
        (openai.NotFoundError, {"messages": [{"role": "user", "content": script(fail="Model unavailable")}]}, "model_not_found"),
        (openai.PermissionDeniedError, {"messages": [{"role": "user", "content": script(fail="Invalid data plane")}]}, None),
        (openai.APIStatusError, {"messages": [{"role": "user", "content": script(fail="The GPU melted")}]}, "narrative_job_failed"),
        (openai.APIStatusError, {"messages": [{"role": "user", "content": script(state="cancelled")}]}, "narrative_job_cancelled"),
        (openai.APIStatusError, {"messages": [{"role": "user", "content": script(output=["nonsense"])}]}, "narrative_invalid_output"),
    ],
)  # fmt: skip
def test_each_error_is_the_right_exception_class(
    client: OpenAI, kind: type[Exception], options: dict, code: str | None
) -> None:
    request = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **options}
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**request)
    assert isinstance(caught.value, openai.APIStatusError)
    assert caught.value.code == code
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_content_filter(client: OpenAI) -> None:
    choice = both_ways(client, script(fail="Blocked by content filter")).choices[0]
    assert (choice.finish_reason, choice.message.content or "") == ("content_filter", "")


def test_a_wrong_key_is_an_authentication_error(deployment: Deployment) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        ask(OpenAI(base_url=f"{deployment.url}/v1", api_key="wrong", max_retries=0), "hi")
    assert caught.value.code == "invalid_api_key"


def test_a_failure_after_a_stream_began_raises_in_the_library(client: OpenAI) -> None:
    with pytest.raises(openai.APIError, match="The GPU melted"):
        list(ask(client, script(fail="The GPU melted"), stream=True))


def test_a_refusal_before_the_stream_begins_keeps_its_own_status(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-99", messages=[{"role": "user", "content": "hi"}], stream=True)


def test_the_library_does_not_repeat_what_was_paid_for(deployment: Deployment) -> None:
    client = OpenAI(base_url=f"{deployment.url}/v1", api_key="test-key", max_retries=2)
    before = deployment.jobs_submitted()
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, script(fail="The GPU melted, and was paid for"))
    assert caught.value.status_code == 424
    assert deployment.jobs_submitted() == before + 1


def test_models(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"claude-4-5-sonnet", "claude-4-5-haiku", "claude-4-6-opus", "gpt-4.1", "o4-mini", "gpt-oss-120b"} <= set(
        names
    )
    assert client.models.retrieve("claude-sonnet-4-5").id == "claude-sonnet-4-5"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-99")
