"""`openai-agents` with its chat-completions model."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from agents.items import ReasoningItem
from conftest import Proxy
from openai import AsyncOpenAI
from openai.types.shared import Reasoning
from scenes import (
    ASKS_FOR_WEATHER,
    BREAKS,
    CALLS_TWICE,
    ENDLESS,
    ENDS_LATE,
    MARKDOWN,
    MODEL,
    SAYS_MARKDOWN,
    TOO_LONG,
    WEATHER,
    City,
    fails_once,
)


@function_tool
def get_weather(city: str) -> str:
    """The current weather in a city."""
    return WEATHER


@function_tool
def what_time() -> str:
    """The time: a tool without parameters."""
    return "noon"


@pytest.fixture(autouse=True)
def no_tracing() -> None:
    set_tracing_disabled(True)  # traces would go to OpenAI


def client(proxy: Proxy, **options: Any) -> AsyncOpenAI:
    return AsyncOpenAI(**{"base_url": proxy.base_url, "api_key": proxy.key, **options})


def agent(openai_client: AsyncOpenAI, model: str = MODEL, **options: Any) -> Agent:
    return Agent("helper", model=OpenAIChatCompletionsModel(model, openai_client), **options)


async def test_plain(proxy: Proxy) -> None:
    result = await Runner.run(agent(client(proxy), instructions="Be brief."), SAYS_MARKDOWN)
    assert result.final_output == MARKDOWN
    assert result.context_wrapper.usage.output_tokens > 0


async def test_stream(proxy: Proxy) -> None:
    result = Runner.run_streamed(agent(client(proxy)), SAYS_MARKDOWN)
    pieces = [event.data.delta async for event in result.stream_events()
              if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"]  # fmt: skip
    assert "".join(pieces) == MARKDOWN
    assert result.final_output == MARKDOWN
    assert len(pieces) > 1


async def test_tool_loop(proxy: Proxy) -> None:
    result = await Runner.run(agent(client(proxy), tools=[get_weather]), ASKS_FOR_WEATHER)
    assert WEATHER in result.final_output


async def test_tool_loop_streamed(proxy: Proxy) -> None:
    result = Runner.run_streamed(agent(client(proxy), tools=[get_weather]), ASKS_FOR_WEATHER)
    _ = [event async for event in result.stream_events()]
    assert WEATHER in result.final_output


async def test_a_tool_without_parameters(proxy: Proxy) -> None:
    helper = agent(client(proxy), tools=[what_time], model_settings=ModelSettings(tool_choice="what_time"))
    result = await Runner.run(helper, "what_time")
    assert [item.output for item in result.new_items if item.type == "tool_call_output_item"] == ["noon"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_parallel_calls(proxy: Proxy, streamed: bool) -> None:
    helper = agent(client(proxy), tools=[get_weather])
    if streamed:
        result: Any = Runner.run_streamed(helper, CALLS_TWICE)
        _ = [event async for event in result.stream_events()]
    else:
        result = await Runner.run(helper, CALLS_TWICE)
    calls = [item.raw_item for item in result.new_items if item.type == "tool_call_item"]
    assert [call.arguments for call in calls] == ['{"city":"Rome"}', '{"city":"Oslo"}']


async def test_handoff(proxy: Proxy) -> None:
    other = agent(client(proxy))
    other.name = "weather expert"
    helper = agent(client(proxy), handoffs=[other], model_settings=ModelSettings(tool_choice="required"))
    assert (await Runner.run(helper, "Hand over, please.")).last_agent is other


async def test_structured_output(proxy: Proxy) -> None:
    result = await Runner.run(agent(client(proxy), output_type=City), "Describe Paris")
    assert isinstance(result.final_output, City)


async def test_structured_output_after_tools(proxy: Proxy) -> None:
    result = await Runner.run(agent(client(proxy), tools=[get_weather], output_type=City), ASKS_FOR_WEATHER)
    assert isinstance(result.final_output, City)
    assert [item.type for item in result.new_items].count("tool_call_item") == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_thoughts_are_shown_once(proxy: Proxy, streamed: bool) -> None:
    helper = agent(client(proxy), model_settings=ModelSettings(reasoning=Reasoning(effort="low")))
    if streamed:
        result: Any = Runner.run_streamed(helper, "Think!")
        _ = [event async for event in result.stream_events()]
    else:
        result = await Runner.run(helper, "Think!")
    thoughts = [item.raw_item for item in result.new_items if isinstance(item, ReasoningItem)]
    assert len(thoughts) == 1
    said = "".join(part.text for part in (thoughts[0].summary or thoughts[0].content))
    assert said
    assert said != said[: len(said) // 2] * 2


async def test_errors(proxy: Proxy) -> None:
    with pytest.raises(openai.NotFoundError):
        await Runner.run(agent(client(proxy), model="gpt-99"), "hi")
    with pytest.raises(openai.AuthenticationError):
        await Runner.run(agent(client(proxy, api_key="wrong")), "hi")
    with pytest.raises(openai.BadRequestError) as caught:
        await Runner.run(agent(client(proxy)), TOO_LONG)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIError, match="The GPU melted"):
        await _last(Runner.run_streamed(agent(client(proxy)), BREAKS).stream_events())


async def test_nothing_is_repeated_that_was_paid_for(proxy: Proxy) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await Runner.run(agent(client(proxy)), fails_once())
    assert caught.value.status_code == 424


async def test_cancellation(proxy: Proxy, request_id: str) -> None:
    helper = agent(client(proxy, default_headers={"x-request-id": request_id}))
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(Runner.run(helper, ENDLESS), timeout=0.5)
    await asyncio.to_thread(proxy.left, request_id)


async def test_cancelling_a_streamed_run(proxy: Proxy, request_id: str) -> None:
    result = Runner.run_streamed(agent(client(proxy, default_headers={"x-request-id": request_id})), ENDLESS)
    cancelled = False
    async for event in result.stream_events():
        if event.type == "raw_response_event" and not cancelled:
            assert proxy.serves(request_id)
            result.cancel()
            cancelled = True
    assert cancelled
    await asyncio.to_thread(proxy.left, request_id)


async def test_a_silent_job_is_waited_for(proxy: Proxy, blank_proxy: Proxy) -> None:
    runs = (Runner.run(agent(client(deployment)), ENDS_LATE) for deployment in (proxy, blank_proxy))
    assert [run.final_output for run in await asyncio.gather(*runs)] == [MARKDOWN, MARKDOWN]
    streamed = Runner.run_streamed(agent(client(proxy)), ENDS_LATE)
    await _last(streamed.stream_events())
    assert streamed.final_output == MARKDOWN


async def _last(events: AsyncIterator[Any]) -> None:
    async for _ in events:
        pass
