"""The official `openai` library on the Responses API, of both major releases."""

import asyncio
from typing import Any

import openai
import pytest
import scenes
from conftest import Proxy
from openai import AsyncOpenAI, OpenAI, pydantic_function_tool
from pydantic import BaseModel

from tests.scripts import script
from tests.waiting import until

GET_WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The current weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
PATCH: Any = {"type": "custom", "name": "apply_change", "description": "Applies a change."}


class Forecast(BaseModel):
    """A wish for a forecast."""

    city: str
    days: int


def connect(proxy: Proxy, **options: Any) -> OpenAI:
    return OpenAI(**{"base_url": proxy.base_url, "api_key": proxy.key, **options})


@pytest.fixture
def client(proxy: Proxy) -> OpenAI:
    return connect(proxy)


def asking(text: Any, **options: Any) -> Any:
    return {"model": scenes.MODEL, "input": text, **options}


def calls_of(response: Any) -> list[Any]:
    return [item for item in response.output if item.type == "function_call"]


def output_of(call: Any, output: str = scenes.WEATHER) -> Any:
    return {"type": "function_call_output", "call_id": call.call_id, "output": output}


def test_create(client: OpenAI) -> None:
    response = client.responses.create(
        **asking(scenes.SAYS_MARKDOWN, instructions="Be brief.", metadata={"of": "a test"})
    )
    assert response.output_text == scenes.MARKDOWN
    assert (response.status, response.model, response.metadata) == ("completed", scenes.MODEL, {"of": "a test"})
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens > 0
    assert response._request_id


def test_raw_stream(client: OpenAI) -> None:
    events = list(client.responses.create(**asking(scenes.SAYS_MARKDOWN), stream=True))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_stream_helper(client: OpenAI) -> None:
    with client.responses.stream(**asking(scenes.SAYS_MARKDOWN)) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        response = stream.get_final_response()
    assert len(pieces) > 1
    assert "".join(pieces) == scenes.MARKDOWN == response.output_text


async def test_async(proxy: Proxy) -> None:
    async with AsyncOpenAI(base_url=proxy.base_url, api_key=proxy.key) as client:
        assert (await client.responses.create(**asking(scenes.SAYS_MARKDOWN))).output_text == scenes.MARKDOWN
        async with client.responses.stream(**asking(scenes.SAYS_MARKDOWN)) as stream:
            assert (await stream.get_final_response()).output_text == scenes.MARKDOWN


def test_structured_output(client: OpenAI) -> None:
    assert isinstance(
        client.responses.parse(**asking("Describe Paris", text_format=scenes.City)).output_parsed, scenes.City
    )
    with client.responses.stream(**asking("Describe Paris", text_format=scenes.City)) as stream:
        assert isinstance(stream.get_final_response().output_parsed, scenes.City)


def test_tool_loop_by_the_whole_history(client: OpenAI) -> None:
    history: list[Any] = [{"role": "user", "content": scenes.ASKS_FOR_WEATHER}]
    called = client.responses.create(**asking(history, tools=[GET_WEATHER], store=False))
    (call,) = calls_of(called)
    assert (call.name, call.arguments) == ("get_weather", '{"city":"Paris"}')
    history += [*called.output, output_of(call)]
    assert scenes.WEATHER in client.responses.create(**asking(history, tools=[GET_WEATHER], store=False)).output_text


def test_tool_loop_by_the_previous_response(client: OpenAI) -> None:
    tools = {"tools": [GET_WEATHER]}
    called = client.responses.create(**asking(scenes.ASKS_FOR_WEATHER, **tools))
    results = [output_of(call) for call in calls_of(called)]
    said = client.responses.create(**asking(results, previous_response_id=called.id, **tools))
    assert scenes.WEATHER in said.output_text
    assert said.previous_response_id == called.id


def test_parallel_calls_and_a_parsed_one_in_streams(client: OpenAI) -> None:
    with client.responses.stream(**asking(scenes.CALLS_TWICE, tools=[GET_WEATHER])) as stream:
        response = stream.get_final_response()
    assert [call.arguments for call in calls_of(response)] == ['{"city":"Rome"}', '{"city":"Oslo"}']
    spec = pydantic_function_tool(Forecast)["function"]
    forecast: Any = {"type": "function", **spec}
    asked = script(calls=[{"name": "Forecast", "arguments": {"city": "Ulm", "days": 2}}])
    with client.responses.stream(**asking(asked, tools=[forecast])) as stream:
        (call,) = calls_of(stream.get_final_response())
    assert Forecast.model_validate_json(call.arguments) == Forecast(city="Ulm", days=2)


def test_a_custom_tool(client: OpenAI) -> None:
    asked = script(calls=[{"name": "apply_change", "arguments": {"input": "*** Begin"}}])
    with client.responses.stream(**asking(asked, tools=[PATCH])) as stream:
        (call,) = stream.get_final_response().output
    assert (call.type, call.name, call.input) == ("custom_tool_call", "apply_change", "*** Begin")


def test_reasoning(client: OpenAI) -> None:
    sealed: Any = {"reasoning": {"effort": "low", "summary": "auto"}, "include": ["reasoning.encrypted_content"]}
    first = client.responses.create(**asking("Think!", store=False, **sealed))
    assert [item.type for item in first.output] == ["reasoning", "message"]
    assert first.output[0].summary[0].text
    assert first.output[0].encrypted_content
    history = [{"role": "user", "content": "Think!"}, *first.output, {"role": "user", "content": "And now?"}]
    assert client.responses.create(**asking(history, store=False, **sealed)).output_text


def test_stored_responses(client: OpenAI) -> None:
    response = client.responses.create(**asking(scenes.SAYS_MARKDOWN))
    assert client.responses.retrieve(response.id).output_text == scenes.MARKDOWN
    (item,) = client.responses.input_items.list(response.id).data
    assert item.content[0].text == scenes.SAYS_MARKDOWN
    replayed = list(client.responses.retrieve(response.id, stream=True, starting_after=3))
    assert replayed[0].sequence_number == 4
    assert replayed[-1].response.output_text == scenes.MARKDOWN
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_what_is_not_to_be_stored_is_not(client: OpenAI) -> None:
    response = client.responses.create(**asking(scenes.SAYS_MARKDOWN, store=False))
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**asking("And?", previous_response_id=response.id))
    assert caught.value.code == "previous_response_not_found"


def finished(client: OpenAI, response: Any) -> Any:
    asyncio.run(until(lambda: client.responses.retrieve(response.id).status not in ("queued", "in_progress")))
    return client.responses.retrieve(response.id)


def test_background(client: OpenAI) -> None:
    response = client.responses.create(**asking(scenes.ENDS_LATE, background=True))
    assert response.status in ("queued", "in_progress")
    assert finished(client, response).output_text == scenes.MARKDOWN
    failed = client.responses.create(**asking(scenes.fails_once(), background=True))
    assert finished(client, failed).status == "failed"


def test_cancelling_in_the_background(client: OpenAI) -> None:
    response = client.responses.create(**asking(scenes.ENDLESS, background=True))
    assert client.responses.cancel(response.id).status == "cancelled"
    assert client.responses.retrieve(response.id).status == "cancelled"


def test_a_background_stream_goes_on_where_it_was_left(client: OpenAI) -> None:
    seen = []
    with client.responses.create(**asking(scenes.ENDS_LATE, background=True), stream=True) as stream:
        for event in stream:
            seen.append(event)
            if event.type == "response.in_progress":
                break
    rest = list(client.responses.retrieve(seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number))
    assert [event.sequence_number for event in [*seen, *rest]] == list(range(len(seen) + len(rest)))
    assert rest[-1].response.output_text == scenes.MARKDOWN


def test_counting_costs_no_job(proxy: Proxy, client: OpenAI) -> None:
    before = proxy.jobs()
    assert client.responses.input_tokens.count(model=scenes.MODEL, input="word " * 100).input_tokens > 50
    assert proxy.jobs() == before


def test_errors(proxy: Proxy, client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="gpt-99", input="hi")
    with pytest.raises(openai.AuthenticationError):
        connect(proxy, api_key="wrong").responses.create(**asking("hi"))
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**asking(scenes.TOO_LONG))
    assert caught.value.code == "context_length_exceeded"


def test_nothing_is_repeated_that_was_paid_for(proxy: Proxy, client: OpenAI) -> None:
    before = proxy.jobs()
    with pytest.raises(openai.APIStatusError, match="The GPU melted"):
        client.responses.create(**asking(scenes.fails_once()))
    events = list(client.responses.create(**asking(scenes.fails_once()), stream=True))
    assert events[-1].type == "response.failed"
    assert "The GPU melted" in events[-1].response.error.message
    assert proxy.jobs() == before + 2


def test_a_timeout_is_adopted_by_the_retry(proxy: Proxy, request_id: str) -> None:
    before = proxy.jobs()
    once = script(key=request_id, attempts=[{"delay": 2, "text": "First."}, {"text": "Second."}])
    assert connect(proxy, timeout=1.2, max_retries=5).responses.create(**asking(once)).output_text == "First."
    assert proxy.jobs() == before + 1


async def test_cancellation(proxy: Proxy, request_id: str) -> None:
    client = AsyncOpenAI(base_url=proxy.base_url, api_key=proxy.key, default_headers={"x-request-id": request_id})
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(client.responses.create(**asking(scenes.ENDLESS)), timeout=0.5)
    await asyncio.to_thread(proxy.left, request_id)


def test_leaving_a_stream(proxy: Proxy, request_id: str) -> None:
    client = connect(proxy, default_headers={"x-request-id": request_id})
    with client.responses.create(**asking(scenes.ENDLESS), stream=True) as stream:
        assert next(iter(stream)).type == "response.created"
        assert proxy.serves(request_id)
    proxy.left(request_id)


async def test_a_silent_job_is_waited_for(proxy: Proxy, blank_proxy: Proxy) -> None:
    async def ask(deployment: Proxy) -> list[str]:
        async with AsyncOpenAI(base_url=deployment.base_url, api_key=deployment.key) as client:
            plain = await client.responses.create(**asking(scenes.ENDS_LATE))
            events = [event async for event in await client.responses.create(**asking(scenes.ENDS_LATE), stream=True)]
            beats = [event for event in events if event.type == "response.in_progress"]
            assert len(beats) > 2 or scenes.SILENCE_S < 1
            return [plain.output_text, events[-1].response.output_text]

    assert await asyncio.gather(ask(proxy), ask(blank_proxy)) == [
        [scenes.MARKDOWN, scenes.MARKDOWN],
        [scenes.MARKDOWN, scenes.MARKDOWN],
    ]
