"""The official `anthropic` library: the Messages API, sync and async."""

import asyncio
from typing import Any

import anthropic
import pytest
import scenes
from anthropic import Anthropic, AsyncAnthropic, beta_tool
from conftest import Proxy
from openai import OpenAI

from tests.scripts import script

GET_WEATHER: Any = {
    "name": "get_weather",
    "description": "The current weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}


@beta_tool
def get_weather(city: str) -> str:
    """The current weather in a city."""
    return scenes.WEATHER


def connect(proxy: Proxy, **options: Any) -> Anthropic:
    return Anthropic(**{"base_url": proxy.url, "api_key": proxy.key, **options})


@pytest.fixture
def client(proxy: Proxy) -> Anthropic:
    return connect(proxy)


def asking(content: Any, **options: Any) -> Any:
    return {"model": scenes.MODEL, "max_tokens": 2000, "messages": [{"role": "user", "content": content}], **options}


def test_plain(client: Anthropic) -> None:
    message = client.messages.create(**asking(scenes.SAYS_MARKDOWN, system="Be brief."))
    assert [block.text for block in message.content] == [scenes.MARKDOWN]
    assert (message.stop_reason, message.model) == ("end_turn", scenes.MODEL)
    assert message.usage.input_tokens > 0
    assert message._request_id


def test_stream_helper(client: Anthropic) -> None:
    with client.messages.stream(**asking(scenes.SAYS_MARKDOWN)) as stream:
        pieces = list(stream.text_stream)
    assert len(pieces) > 1
    assert "".join(pieces) == scenes.MARKDOWN == stream.get_final_text()
    assert stream.get_final_message().stop_reason == "end_turn"


def test_raw_stream(client: Anthropic) -> None:
    kinds = [event.type for event in client.messages.create(**asking(scenes.SAYS_MARKDOWN), stream=True)]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])


async def test_async(proxy: Proxy) -> None:
    async with AsyncAnthropic(base_url=proxy.url, auth_token=proxy.key) as client:
        assert (await client.messages.create(**asking(scenes.SAYS_MARKDOWN))).content[0].text == scenes.MARKDOWN
        async with client.messages.stream(**asking(scenes.SAYS_MARKDOWN)) as stream:
            assert "".join([piece async for piece in stream.text_stream]) == scenes.MARKDOWN


def test_tool_loop(client: Anthropic) -> None:
    asked = asking(scenes.ASKS_FOR_WEATHER, tools=[GET_WEATHER])
    called = client.messages.create(**asked)
    assert called.stop_reason == "tool_use"
    call = called.content[-1]
    assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": scenes.WEATHER}
    asked["messages"] += [{"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    assert scenes.WEATHER in client.messages.create(**asked).content[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_tool_runner(client: Anthropic, stream: bool) -> None:
    runner = client.beta.messages.tool_runner(**asking(scenes.ASKS_FOR_WEATHER), tools=[get_weather], stream=stream)
    *_, last = [each.get_final_message() if stream else each for each in runner]
    assert scenes.WEATHER in last.content[0].text


def test_parallel_calls_in_a_stream_stay_apart(client: Anthropic) -> None:
    with client.messages.stream(**asking(scenes.CALLS_TWICE, tools=[GET_WEATHER])) as stream:
        message = stream.get_final_message()
    assert [block.input["city"] for block in message.content if block.type == "tool_use"] == ["Rome", "Oslo"]


@pytest.mark.parametrize("kind", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_tool_choice(client: Anthropic, kind: Any) -> None:
    called = client.messages.create(**asking("Hello!", tools=[GET_WEATHER], tool_choice=kind))
    assert [block.name for block in called.content if block.type == "tool_use"] == ["get_weather"]
    declined = asking(scenes.ASKS_FOR_WEATHER, tools=[GET_WEATHER], tool_choice={"type": "none"})
    assert client.messages.create(**declined).stop_reason == "end_turn"


def test_structured_output(client: Anthropic) -> None:
    assert isinstance(
        client.messages.parse(**asking("Describe Paris", output_format=scenes.City)).parsed_output, scenes.City
    )
    with client.messages.stream(**asking("Describe Paris", output_format=scenes.City)) as stream:
        assert isinstance(stream.get_final_message().parsed_output, scenes.City)


def test_thinking(client: Anthropic) -> None:
    message = client.messages.create(**asking("Think!", thinking=THINKING))
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking
    with client.messages.stream(**asking("Think!", thinking=THINKING)) as stream:
        pieces = [event.thinking for event in stream if event.type == "thinking"]
        streamed = stream.get_final_message()
    assert "".join(pieces) == message.content[0].thinking
    again = asking("Think!", thinking=THINKING)
    again["messages"] += [{"role": "assistant", "content": streamed.content}, {"role": "user", "content": "And now?"}]
    assert client.messages.create(**again).stop_reason == "end_turn"


def test_stop_sequence(client: Anthropic) -> None:
    message = client.messages.create(**asking("one STOP two", stop_sequences=["STOP"]))
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "STOP")
    assert message.content[0].text.endswith("one ")


def test_counting_costs_no_job(proxy: Proxy, client: Anthropic) -> None:
    before = proxy.jobs()
    counted = client.messages.count_tokens(model=scenes.MODEL, messages=[{"role": "user", "content": "word " * 100}])
    assert 50 < counted.input_tokens < 500
    assert proxy.jobs() == before


def test_models(client: Anthropic) -> None:
    listed = list(client.models.list(limit=5))
    assert scenes.MODEL in [model.id for model in listed]
    assert len(listed) > 5
    assert client.models.retrieve(scenes.MODEL).display_name == scenes.MODEL


def test_one_base_serves_openais_clients_too(proxy: Proxy, client: Anthropic) -> None:
    theirs = OpenAI(base_url=proxy.base_url, api_key=proxy.key)
    assert scenes.MODEL in [model.id for model in theirs.models.list()]
    said = theirs.chat.completions.create(
        model=scenes.MODEL, messages=[{"role": "user", "content": scenes.SAYS_MARKDOWN}]
    )
    assert said.choices[0].message.content == client.messages.create(**asking(scenes.SAYS_MARKDOWN)).content[0].text


def test_errors(proxy: Proxy, client: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(**{**asking("hi"), "model": "gpt-99"})
    assert missing.value.type == "not_found_error"
    assert missing.value.request_id
    with pytest.raises(anthropic.AuthenticationError):
        connect(proxy, api_key="wrong").messages.create(**asking("hi"))
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        client.messages.create(**asking(scenes.TOO_LONG))
    with pytest.raises(anthropic.BadRequestError, match=r"messages\.0\.content\.0"):
        client.messages.create(
            **asking([{"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}}])
        )


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_repeated_that_was_paid_for(proxy: Proxy, client: Anthropic, stream: bool) -> None:
    before = proxy.jobs()
    with pytest.raises(anthropic.InternalServerError, match="The GPU melted"):
        client.messages.create(**asking(scenes.fails_once()), stream=stream)
    assert proxy.jobs() == before + 1


def test_a_failure_after_the_stream_began_raises(blank_proxy: Proxy) -> None:
    late = asking(script(delay=2 * scenes.SILENCE_S, fail="The GPU melted"))
    with connect(blank_proxy).messages.stream(**late) as stream:
        assert next(stream).type == "message_start"
        with pytest.raises(anthropic.APIStatusError, match="The GPU melted"):
            stream.get_final_message()


def test_a_throttled_job_is_retried(proxy: Proxy, client: Anthropic, request_id: str) -> None:
    throttled = script(key=request_id, attempts=[{"fail": "ThrottlingException: slow down"}, {"text": "Later."}])
    assert client.messages.create(**asking(throttled)).content[0].text == "Later."


def test_a_timeout_is_adopted_by_the_retry(proxy: Proxy, request_id: str) -> None:
    before = proxy.jobs()
    once = script(key=request_id, attempts=[{"delay": 2, "text": "First."}, {"text": "Second."}])
    client = connect(proxy, timeout=1.2, max_retries=5)
    assert client.messages.create(**asking(once)).content[0].text == "First."
    assert proxy.jobs() == before + 1


async def test_cancellation(proxy: Proxy, request_id: str) -> None:
    client = AsyncAnthropic(base_url=proxy.url, api_key=proxy.key, default_headers={"x-request-id": request_id})
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(client.messages.create(**asking(scenes.ENDLESS)), timeout=0.5)
    await asyncio.to_thread(proxy.left, request_id)


def test_leaving_a_stream(blank_proxy: Proxy, request_id: str) -> None:
    client = connect(blank_proxy, default_headers={"x-request-id": request_id})
    with client.messages.stream(**asking(scenes.ENDLESS)) as stream:
        assert next(iter(stream)).type == "message_start"
        assert blank_proxy.serves(request_id)
    blank_proxy.left(request_id)


async def test_a_silent_job_is_waited_for(proxy: Proxy, blank_proxy: Proxy) -> None:
    async def ask(deployment: Proxy) -> list[str]:
        async with AsyncAnthropic(base_url=deployment.url, api_key=deployment.key) as client:
            plain = await client.messages.create(**asking(scenes.ENDS_LATE))
            async with client.messages.stream(**asking(scenes.ENDS_LATE)) as stream:
                return [plain.content[0].text, await stream.get_final_text()]

    assert await asyncio.gather(ask(proxy), ask(blank_proxy)) == [
        [scenes.MARKDOWN, scenes.MARKDOWN],
        [scenes.MARKDOWN, scenes.MARKDOWN],
    ]
