"""The `anthropic` service: named endpoints on a strict Messages API, by the official clients of both faces."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import openai
import pytest
from elasticsearch import ApiError, BadRequestError, Elasticsearch
from openai import OpenAI

from tests.conftest import Deployment
from tests.folding import assert_completion_is_openais, fold
from tests.messages_api import KEY, MODEL, directive, messages_api
from tests.serving import serve

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get.weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL: Any = {"name": "get_weather", "input": {"city": "Ulm"}}


class Service:
    """A deployment whose endpoint `claude` is on a Messages API."""

    def __init__(self, stack: ExitStack) -> None:
        self.api = messages_api()
        environ = {"ANTHROPIC_BASE_URL": stack.enter_context(serve(self.api)), "PROXY_ANTHROPIC__MAX_RETRIES": "0"}
        self.deployment = Deployment(stack, {**environ, "PROXY_ACCESS__WAIT_S": "0"}, {})
        self.elastic = stack.enter_context(Elasticsearch(self.deployment.url, api_key="test-key", max_retries=0))
        self.put("claude")
        self.openai = OpenAI(base_url=f"{self.deployment.url}/v1", api_key="test-key", max_retries=0)

    def put(self, name: str, **settings: Any) -> Any:
        service_settings = {
            "api_key": KEY,
            "model_id": MODEL,
            "rate_limit": {"requests_per_minute": 10_000},
            **settings,
        }
        config = {
            "service": "anthropic",
            "service_settings": service_settings,
            "task_settings": {"max_tokens": 1024},
        }
        return self.elastic.inference.put(task_type="completion", inference_id=name, inference_config=config)

    def ask(self, text: str, **options: Any) -> Any:
        messages = options.pop("messages", [{"role": "user", "content": text}])
        return self.openai.chat.completions.create(model="claude", messages=messages, **options)

    def both_ways(self, text: str, **options: Any) -> Any:
        """The plain answer, after asserting that the streamed one folds to the same."""
        plain = self.ask(text, **options)
        assert_completion_is_openais(plain.model_dump())
        chunks = [chunk.model_dump(exclude_unset=True) for chunk in self.ask(text, stream=True, **options)]
        assert fold(chunks)["choices"] == plain.model_dump(exclude_unset=True)["choices"]
        return plain

    @property
    def sent(self) -> dict[str, Any]:
        """The last body that the Messages API was sent."""
        body: dict[str, Any] = self.api.state.requests[-1]
        return body


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with ExitStack() as stack:
        yield Service(stack)


# ---------------------------------------------------------------- the seed's example


def test_the_example_of_elastics_page_works_as_printed_there(service: Service) -> None:
    client = service.elastic
    resp = client.inference.put(
        task_type="completion",
        inference_id="anthropic_completion",
        inference_config={
            "service": "anthropic",
            "service_settings": {"api_key": KEY, "model_id": MODEL},
            "task_settings": {"max_tokens": 1024},
        },
    )
    assert resp.body == {
        "inference_id": "anthropic_completion",
        "task_type": "completion",
        "service": "anthropic",
        "service_settings": {"model_id": MODEL, "rate_limit": {"requests_per_minute": 50}},
        "task_settings": {"max_tokens": 1024},
    }
    answer = client.inference.completion(inference_id="anthropic_completion", input=directive(text="Here."))
    assert answer.body == {"completion": [{"result": "Here."}]}
    assert answer.meta.headers["x-ratelimit-limit-requests"] == "50"
    headers = {"accept": "text/event-stream", "content-type": "application/json"}
    path = "/_inference/completion/anthropic_completion/_stream"
    streamed = client.perform_request("POST", path, headers=headers, body={"input": directive(text="Here it is.")}).body
    *pieces, done = [line.removeprefix("data: ") for line in streamed.splitlines() if line.startswith("data: ")]
    assert done == "[DONE]"
    assert "".join(json.loads(piece)["completion"][0]["delta"] for piece in pieces) == "Here it is."
    completion = service.openai.chat.completions.create(
        model="anthropic_completion", messages=[{"role": "user", "content": directive(text="Here.")}]
    )
    assert completion.model == "anthropic_completion"
    assert completion.choices[0].message.content == "Here."
    assert service.sent["max_tokens"] == 1024


def test_the_clients_own_method_for_the_service_works_too(service: Service) -> None:
    made = service.elastic.inference.put_anthropic(
        task_type="completion",
        anthropic_inference_id="by_method",
        service="anthropic",
        service_settings={"api_key": KEY, "model_id": MODEL},
        task_settings={"max_tokens": 5, "top_k": 3, "temperature": 0.5},
    )
    assert made["task_settings"] == {"max_tokens": 5, "temperature": 0.5, "top_k": 3}
    service.elastic.inference.completion(inference_id="by_method", input="hi")
    assert (service.sent["max_tokens"], service.sent["top_k"], service.sent["temperature"]) == (5, 3, 0.5)


@pytest.mark.parametrize(
    ("settings", "reason"), [({"api_key": "wrong"}, "API key"), ({"model_id": "claude-none"}, "claude-none")]
)
def test_key_and_model_are_tried_before_anything_is_stored(
    service: Service, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        service.put("refused", **settings)
    assert reason in caught.value.body["error"]["reason"]
    assert "refused" not in str(service.elastic.inference.get().body)


def test_a_service_that_is_away_does_not_make_a_key_wrong(make_deployment: Any) -> None:
    deployment = make_deployment({"ANTHROPIC_BASE_URL": "http://127.0.0.1:1", "PROXY_ANTHROPIC__MAX_RETRIES": "0"})
    settings = {"api_key": KEY, "model_id": MODEL}
    config = {"service": "anthropic", "service_settings": settings, "task_settings": {"max_tokens": 9}}
    answer = deployment.http.put("/_inference/completion/claude", json=config)
    assert answer.status_code == 502
    assert answer.headers["retry-after"]


# ---------------------------------------------------------------- chat completions


def test_text_is_the_same_plain_and_streamed(service: Service) -> None:
    text = "Some **Markdown**:\n\n```python\n    x = 1\n```\n  end  "
    completion = service.both_ways(directive(text=text))
    assert completion.choices[0].message.content == text
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.prompt_tokens == 25  # what was read from and written to a cache, too
    assert completion.usage.completion_tokens == 11
    assert completion.id == "chatcmpl-0123"


def test_tokens_are_passed_on_as_they_come(service: Service) -> None:
    service.api.state.release.clear()
    stream = service.ask(directive(text="first and then more", hold=True), stream=True)
    pieces = []
    for chunk in stream:
        pieces.append(chunk.choices[0].delta.content or "")
        if "".join(pieces) == "first a":  # the upstream waits until we have seen this
            service.api.state.release.set()
    assert "".join(pieces) == "first and then more"


def test_usage_of_a_stream_comes_last_and_only_when_asked_for(service: Service) -> None:
    chunks = list(service.ask("hi", stream=True, stream_options={"include_usage": True}))
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 36
    assert all("usage" not in chunk.model_fields_set for chunk in service.ask("hi", stream=True))


def test_tool_calls_are_native_with_the_clients_names_and_come_back_as_results(service: Service) -> None:
    completion = service.both_ways(directive(text="Let me see.", calls=[CALL, CALL]), tools=[TOOL])
    assert service.sent["tools"] == [
        {
            "name": "get_weather",
            "description": "The weather.",
            "input_schema": TOOL["function"]["parameters"],
        }
    ]
    choice = completion.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    assert [call.function.name for call in choice.message.tool_calls] == ["get.weather"] * 2
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Ulm"}
    history: Any = [
        {"role": "user", "content": "Weather?"},
        choice.message.model_dump(exclude_none=True),
        *({"role": "tool", "tool_call_id": call.id, "content": "sun"} for call in choice.message.tool_calls),
    ]
    service.ask("", messages=history, tools=[TOOL])
    used, results = service.sent["messages"][1:]
    assert [block["type"] for block in used["content"]] == ["text", "tool_use", "tool_use"]
    assert [block["id"] for block in used["content"][1:]] == ["toolu_0", "toolu_1"]
    assert [block["tool_use_id"] for block in results["content"]] == ["toolu_0", "toolu_1"]
    # Without tools, past calls are sent as text: tool blocks would be refused.
    service.ask("", messages=history)
    assert "tools" not in service.sent
    service.ask("", messages=history, tools=[TOOL], tool_choice="none")
    assert service.sent["tool_choice"] == {"type": "none"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"type": "auto"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "get.weather"}}},
            {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
        ),
    ],
)
def test_tool_choice(service: Service, options: dict[str, Any], expected: dict[str, Any]) -> None:
    service.ask(directive(calls=[CALL]), tools=[TOOL], **options)
    assert service.sent["tool_choice"] == expected


def test_a_call_without_arguments_has_an_empty_object(service: Service) -> None:
    completion = service.both_ways(directive(calls=[{"name": "get_weather", "input": {}}]), tools=[TOOL])
    assert completion.choices[0].message.tool_calls[0].function.arguments == "{}"


@pytest.mark.parametrize("call", [CALL, {"name": "get_weather", "input": {}}])
def test_a_call_that_the_token_limit_cut_is_dropped_and_the_reason_is_length(service: Service, call: Any) -> None:
    text = directive(text="Let me", calls=[call], cut=True, stop_reason="max_tokens")
    choice = service.both_ways(text, tools=[TOOL]).choices[0]
    assert choice.finish_reason == "length"
    assert not choice.message.tool_calls
    assert choice.message.content == "Let me"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("stop_sequence", "stop"), ("max_tokens", "length"), ("refusal", "content_filter"), ("pause_turn", "stop")],
)
def test_finish_reasons(service: Service, reason: str, expected: str) -> None:
    assert service.both_ways(directive(text="x", stop_reason=reason)).choices[0].finish_reason == expected


def test_thinking_is_native_and_shown_to_whoever_asked_for_it(service: Service) -> None:
    text = directive(thinking="First, I think about it.", text="Done.")
    completion = service.both_ways(text, reasoning_effort="low", max_tokens=100)
    assert completion.choices[0].message.reasoning_content == "First, I think about it."
    assert service.sent["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    assert service.sent["max_tokens"] == 2148
    heroku = {"extended_thinking": {"enabled": True, "budget_tokens": 1024}}
    completion = service.both_ways(text, extra_body=heroku)
    assert completion.choices[0].message.reasoning == {"thinking": "First, I think about it."}
    hidden = {"extended_thinking": {"enabled": True, "include_reasoning": False}}
    assert "reasoning_content" not in service.both_ways(text, extra_body=hidden).choices[0].message.model_fields_set


def raw(service: Service, **body: Any) -> httpx.Response:
    return service.deployment.chat({"model": "claude", "messages": [{"role": "user", "content": "hi"}], **body})


def test_what_thinking_forbids_is_changed_and_told(service: Service) -> None:
    answer = raw(service, reasoning_effort="low", temperature=0.2, top_k=4, top_p=0.5)
    assert answer.status_code == 200
    assert "temperature: 1" in answer.headers["x-proxy-adjusted"]
    assert "top_k: left out" in answer.headers["x-proxy-adjusted"]
    forced = raw(service, reasoning_effort="low", tools=[TOOL], tool_choice="required")
    assert "thinking: off" in forced.headers["x-proxy-adjusted"]
    history = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "get.weather", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "sun"},
    ]
    midst = raw(service, reasoning_effort="low", tools=[TOOL], messages=history)
    assert midst.status_code == 200
    assert "thinking: off" in midst.headers["x-proxy-adjusted"]


def test_parameters_are_translated_natively(service: Service) -> None:
    answer = raw(
        service,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        temperature=1.5,
        top_p=1,
        top_k=7,
        stop=["END", " "],
        max_completion_tokens=33,
        user="someone",
        seed=1,
        metadata={"a": "b"},
    )
    assert answer.status_code == 200
    assert service.sent == {
        "model": MODEL,
        "max_tokens": 33,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "temperature": 1.0,
        "top_k": 7,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "someone"},
        "stream": True,
    }
    assert answer.headers["x-proxy-model"] == MODEL
    assert answer.headers["x-proxy-ignored"] == "seed, metadata"
    assert answer.headers["x-proxy-adjusted"] == "temperature: lowered to 1"


def test_structured_output_is_native(service: Service) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    assert raw(service, response_format=wanted).status_code == 200
    sent = service.sent["output_config"]["format"]
    assert sent["type"] == "json_schema"
    assert sent["schema"]["additionalProperties"] is False
    # The SDK's own translation raises on both.
    for odd in ({"type": ["string", "null"]}, {"type": "object", "properties": {"a": {}}}):
        odd_format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": odd}}
        assert raw(service, response_format=odd_format).status_code == 200
        assert service.sent["output_config"]["format"]["type"] == "json_schema"
    assert raw(service, response_format={"type": "json_object"}).status_code == 200
    assert "JSON" in service.sent["system"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 2}, "n"),
        ({"top_k": "many"}, "top_k"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"reasoning_effort": "utmost"}, "reasoning_effort"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_what_cannot_be_had_is_a_400_before_anything_is_sent(service: Service, body: Any, param: str) -> None:
    before = len(service.api.state.requests)
    answer = raw(service, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)
    assert len(service.api.state.requests) == before


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "expected", "retry"),
    [
        (
            {"status": 400, "message": "prompt is too long: 9 tokens > 8 maximum"},
            (400, "context_length_exceeded"),
            False,
        ),
        ({"status": 400, "message": "something else"}, (400, None), False),
        ({"status": 413}, (413, "request_too_large"), False),
        ({"status": 429}, (429, "rate_limit_exceeded"), True),
        ({"status": 529, "type": "overloaded_error"}, (502, "anthropic_unavailable"), True),
        ({"status": 500}, (502, "anthropic_unavailable"), True),
        ({"status": 403}, (502, "anthropic_rejected"), False),
        ({"status": 401}, (502, "endpoint_unauthorized"), False),
    ],
)
def test_refusals_have_a_status_of_their_own_and_say_whether_a_repeat_can_help(
    service: Service, stream: bool, error: dict[str, Any], expected: tuple[int, str | None], retry: bool
) -> None:
    answer = raw(service, stream=stream, messages=[{"role": "user", "content": directive(**error)}])
    assert (answer.status_code, answer.json()["error"]["code"]) == expected
    assert answer.headers["x-should-retry"] == ("true" if retry else "false")
    assert answer.headers.get("retry-after") == ("7" if retry else None)


def test_an_answer_that_breaks_off_is_an_error_that_invites_no_repeat(service: Service) -> None:
    messages: Any = [{"role": "user", "content": directive(text="a long text", broken=True)}]
    answer = raw(service, messages=messages)
    assert answer.status_code == 424
    assert answer.json()["error"]["code"] == "anthropic_failed"
    assert answer.headers["x-should-retry"] == "false"
    with pytest.raises(openai.APIError, match="broke off"):
        for _ in service.ask("", messages=messages, stream=True):
            pass
    with pytest.raises(ApiError) as caught:
        service.elastic.inference.completion(inference_id="claude", input=messages[0]["content"])
    assert caught.value.status_code == 500


# ---------------------------------------------------------------- fallback


def test_while_anthropic_is_down_the_fallback_answers_and_is_named(service: Service) -> None:
    service.put("with_fallback", fallback="claude-4-5-haiku")
    down = {"model": "with_fallback", "messages": [{"role": "user", "content": directive(status=529)}]}
    for stream in (False, True):
        answer = service.deployment.chat({**down, "stream": stream})
        assert answer.status_code == 200
        assert answer.headers["x-proxy-served-by"] == "claude-4-5-haiku"
        assert answer.headers["x-narrative-job-id"]
        assert '"model":"with_fallback"' in answer.text
    up = {"model": "with_fallback", "messages": [{"role": "user", "content": "hi"}]}
    assert "x-proxy-served-by" not in service.deployment.chat(up).headers


@pytest.mark.parametrize("status", [400, 401, 404, 429])
def test_a_4xx_is_no_reason_to_fall_back(service: Service, status: int) -> None:
    if not any(each["inference_id"] == "careful" for each in service.elastic.inference.get()["endpoints"]):
        service.put("careful", fallback="claude-4-5-haiku")
    before = service.deployment.jobs_submitted()
    answer = service.deployment.chat(
        {"model": "careful", "messages": [{"role": "user", "content": directive(status=status)}]}
    )
    assert answer.status_code in (status, 502)
    assert "x-proxy-served-by" not in answer.headers
    assert service.deployment.jobs_submitted() == before


def test_fallbacks_that_point_at_each_other_end(service: Service) -> None:
    service.put("pong")
    service.put("ping", fallback="pong")
    service.elastic.inference.delete(inference_id="pong")
    service.put("pong", fallback="ping")
    answer = service.deployment.chat(
        {"model": "ping", "messages": [{"role": "user", "content": directive(status=529)}]}
    )
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "anthropic_unavailable"
