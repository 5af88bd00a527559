"""`pydantic-ai`: Agent with OpenAIChatModel."""

import asyncio
from typing import Any

import pytest
import scenes
from conftest import Proxy
from openai import AsyncOpenAI
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.messages import ToolReturnPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.scripts import script


def agent(proxy: Proxy, model: str = scenes.MODEL, key: str = Proxy.key, **options: Any) -> Agent:
    provider = OpenAIProvider(base_url=proxy.base_url, api_key=key)
    return Agent(OpenAIChatModel(model, provider=provider), **options)


def get_weather(city: str) -> str:
    """The current weather in a city."""
    return scenes.WEATHER


async def test_plain(proxy: Proxy) -> None:
    result = await agent(proxy).run(scenes.SAYS_MARKDOWN)
    assert result.output == scenes.MARKDOWN
    assert result.usage.output_tokens > 0


async def test_stream(proxy: Proxy) -> None:
    async with agent(proxy).run_stream(scenes.SAYS_MARKDOWN) as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    assert "".join(pieces) == scenes.MARKDOWN
    assert len(pieces) > 1
    assert result.usage.output_tokens > 0


async def test_tool_loop(proxy: Proxy) -> None:
    result = await agent(proxy, tools=[get_weather]).run(scenes.ASKS_FOR_WEATHER)
    assert scenes.WEATHER in result.output


async def test_tool_loop_streamed(proxy: Proxy) -> None:
    async with agent(proxy, tools=[get_weather]).run_stream(scenes.ASKS_FOR_WEATHER) as result:
        assert scenes.WEATHER in await result.get_output()


async def test_parallel_calls(proxy: Proxy) -> None:
    result = await agent(proxy, tools=[get_weather]).run(scenes.CALLS_TWICE)
    returned = [part for message in result.all_messages() for part in message.parts if isinstance(part, ToolReturnPart)]
    assert [part.content for part in returned] == [scenes.WEATHER, scenes.WEATHER]


@pytest.mark.parametrize("form", [ToolOutput, NativeOutput])
async def test_structured_output(proxy: Proxy, form: Any) -> None:
    result = await agent(proxy, output_type=form(scenes.City)).run("Describe Paris")
    assert isinstance(result.output, scenes.City)


async def test_structured_output_by_prompt(proxy: Proxy) -> None:
    city = scenes.City(name="Paris", population=2_000_000, climate="mild", districts=[])
    says = script(output=city.model_dump())
    assert (await agent(proxy, output_type=PromptedOutput(scenes.City)).run(says)).output == city


async def test_structured_output_beside_tools(proxy: Proxy) -> None:
    result = await agent(proxy, tools=[get_weather], output_type=scenes.City).run(scenes.ASKS_FOR_WEATHER)
    assert isinstance(result.output, scenes.City)


async def test_a_conversation_that_goes_on(proxy: Proxy) -> None:
    talker = agent(proxy, tools=[get_weather], instructions="Be brief.")
    first = await talker.run(scenes.ASKS_FOR_WEATHER)
    assert (await talker.run(scenes.SAYS_MARKDOWN, message_history=first.all_messages())).output == scenes.MARKDOWN


@pytest.mark.parametrize(("options", "prompt", "status"), [
    ({"model": "gpt-99"}, "hi", 404),
    ({"key": "wrong"}, "hi", 401),
    ({}, scenes.TOO_LONG, 400),
])  # fmt: skip
async def test_errors(proxy: Proxy, options: dict[str, str], prompt: str, status: int) -> None:
    with pytest.raises(ModelHTTPError) as caught:
        await agent(proxy, **options).run(prompt)
    assert caught.value.status_code == status


async def test_a_failure_after_the_stream_began_raises(proxy: Proxy) -> None:
    with pytest.raises(Exception, match="The GPU melted"):
        async with agent(proxy).run_stream(scenes.BREAKS) as result:
            await result.get_output()


async def test_nothing_is_repeated_that_was_paid_for(proxy: Proxy) -> None:
    with pytest.raises(ModelHTTPError) as caught:
        await agent(proxy).run(scenes.fails_once())
    assert caught.value.status_code == 424


async def test_cancellation(proxy: Proxy, request_id: str) -> None:
    client = AsyncOpenAI(base_url=proxy.base_url, api_key=proxy.key, default_headers={"x-request-id": request_id})
    model = OpenAIChatModel(scenes.MODEL, provider=OpenAIProvider(openai_client=client))
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(Agent(model).run(scenes.ENDLESS), timeout=0.5)
    await asyncio.to_thread(proxy.left, request_id)


async def test_a_silent_job_is_waited_for(proxy: Proxy, blank_proxy: Proxy) -> None:
    answers = await asyncio.gather(*(agent(deployment).run(scenes.ENDS_LATE) for deployment in (proxy, blank_proxy)))
    assert [answer.output for answer in answers] == [scenes.MARKDOWN, scenes.MARKDOWN]
    async with agent(proxy).run_stream(scenes.ENDS_LATE) as result:
        assert await result.get_output() == scenes.MARKDOWN
