"""`llama-index-llms-openai-like`: OpenAILike."""

import asyncio
from typing import Any

import openai
import pytest
import scenes
from conftest import Proxy
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike


def get_weather(city: str) -> str:
    """The current weather in a city."""
    return scenes.WEATHER


def model(proxy: Proxy, **options: Any) -> OpenAILike:
    chat = {"is_chat_model": True, "is_function_calling_model": True}
    return OpenAILike(**{"model": scenes.MODEL, "api_base": proxy.base_url, "api_key": proxy.key, **chat, **options})


def say(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


def test_plain(proxy: Proxy) -> None:
    assert model(proxy).chat(say(scenes.SAYS_MARKDOWN)).message.content == scenes.MARKDOWN
    assert model(proxy).complete(scenes.SAYS_MARKDOWN).text == scenes.MARKDOWN


def test_stream(proxy: Proxy) -> None:
    pieces = [answer.delta for answer in model(proxy).stream_chat(say(scenes.SAYS_MARKDOWN))]
    assert "".join(pieces) == scenes.MARKDOWN
    assert len(pieces) > 3


async def test_async(proxy: Proxy) -> None:
    assert (await model(proxy).achat(say(scenes.SAYS_MARKDOWN))).message.content == scenes.MARKDOWN
    stream = await model(proxy).astream_chat(say(scenes.SAYS_MARKDOWN))
    assert "".join([answer.delta async for answer in stream]) == scenes.MARKDOWN


def test_tool_loop(proxy: Proxy) -> None:
    tool = FunctionTool.from_defaults(get_weather)
    answer = model(proxy).predict_and_call([tool], scenes.ASKS_FOR_WEATHER)
    assert answer.response == scenes.WEATHER


async def test_an_agent_s_tool_loop(proxy: Proxy) -> None:
    agent = FunctionAgent(tools=[get_weather], llm=model(proxy), streaming=False)
    assert scenes.WEATHER in str(await agent.run(scenes.ASKS_FOR_WEATHER))


async def test_an_agent_s_tool_loop_streamed(proxy: Proxy) -> None:
    agent = FunctionAgent(tools=[get_weather], llm=model(proxy))
    assert scenes.WEATHER in str(await agent.run(scenes.ASKS_FOR_WEATHER))


def test_parallel_calls_in_a_stream_stay_apart(proxy: Proxy) -> None:
    llm = model(proxy)
    *_, last = llm.stream_chat_with_tools(
        [FunctionTool.from_defaults(get_weather)], user_msg=scenes.CALLS_TWICE, allow_parallel_tool_calls=True
    )
    calls = llm.get_tool_calls_from_response(last)
    assert [call.tool_kwargs["city"] for call in calls] == ["Rome", "Oslo"]


@pytest.mark.parametrize("by_format", [False, True])
def test_structured_output(proxy: Proxy, by_format: bool) -> None:
    structured = model(proxy, should_use_structured_outputs=by_format).as_structured_llm(scenes.City)
    assert isinstance(structured.chat(say("Describe Paris")).raw, scenes.City)


def test_errors(proxy: Proxy) -> None:
    with pytest.raises(openai.NotFoundError):
        model(proxy, model="gpt-99").chat(say("hi"))
    with pytest.raises(openai.AuthenticationError):
        model(proxy, api_key="wrong").chat(say("hi"))
    with pytest.raises(openai.BadRequestError) as caught:
        model(proxy).chat(say(scenes.TOO_LONG))
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIError, match="The GPU melted"):
        list(model(proxy).stream_chat(say(scenes.BREAKS)))


def test_nothing_is_repeated_that_was_paid_for(proxy: Proxy) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        model(proxy).chat(say(scenes.fails_once()))
    assert caught.value.status_code == 424


async def test_cancellation(proxy: Proxy, request_id: str) -> None:
    llm = model(proxy, default_headers={"x-request-id": request_id})
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(llm.achat(say(scenes.ENDLESS)), timeout=0.5)
    await asyncio.to_thread(proxy.left, request_id)


async def test_a_silent_job_is_waited_for(proxy: Proxy, blank_proxy: Proxy) -> None:
    answers = await asyncio.gather(
        *(model(deployment).achat(say(scenes.ENDS_LATE)) for deployment in (proxy, blank_proxy))
    )
    assert [answer.message.content for answer in answers] == [scenes.MARKDOWN, scenes.MARKDOWN]
    stream = await model(proxy).astream_chat(say(scenes.ENDS_LATE))
    assert "".join([answer.delta async for answer in stream]) == scenes.MARKDOWN
