"""`langchain-openai` and `langchain-anthropic`: ChatOpenAI and ChatAnthropic."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest
import scenes
from conftest import Proxy
from langchain_anthropic import ChatAnthropic
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from tests.scripts import script


@tool
def get_weather(city: str) -> str:
    """The current weather in a city."""
    return scenes.WEATHER


def chat_openai(proxy: Proxy, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(**{"model": scenes.MODEL, "base_url": proxy.base_url, "api_key": proxy.key, **options})


def chat_anthropic(proxy: Proxy, **options: Any) -> ChatAnthropic:
    return ChatAnthropic(
        **{"model": scenes.MODEL, "base_url": proxy.url, "api_key": proxy.key, "max_tokens": 2000, **options}
    )


@dataclass(frozen=True)
class Provider:
    """A model class of LangChain, and what differs with it.

    Attributes:
        chat: makes a model on a proxy, with options of its class.
        errors: the module of the library it is built on.
        text: the attribute that holds the text of a message or chunk of a stream.
        stopped: what a message that ended by itself says of that in its metadata.
    """

    chat: Callable[..., Any]
    errors: Any
    text: str
    stopped: tuple[str, str]

    def text_of(self, message: Any) -> str:
        text: str = getattr(message, self.text)
        return text


@pytest.fixture(
    params=[
        Provider(chat_openai, openai, "content", ("finish_reason", "stop")),
        Provider(chat_anthropic, anthropic, "text", ("stop_reason", "end_turn")),
    ],
    ids=["openai", "anthropic"],
)
def provider(request: pytest.FixtureRequest) -> Provider:
    chosen: Provider = request.param
    return chosen


@pytest.fixture
def model(provider: Provider, proxy: Proxy) -> BaseChatModel:
    made: BaseChatModel = provider.chat(proxy)
    return made


def test_plain(provider: Provider, model: BaseChatModel) -> None:
    message = model.invoke([SystemMessage("Be brief."), HumanMessage(scenes.SAYS_MARKDOWN)])
    assert message.content == scenes.MARKDOWN == model.invoke(scenes.SAYS_MARKDOWN).content
    assert message.usage_metadata["total_tokens"] > 0
    assert provider.stopped in message.response_metadata.items()


def test_stream(provider: Provider, proxy: Proxy) -> None:
    chunks = list(provider.chat(proxy, stream_usage=True).stream(scenes.SAYS_MARKDOWN))
    whole = sum(chunks[1:], chunks[0])
    assert isinstance(whole, AIMessageChunk)
    assert provider.text_of(whole) == scenes.MARKDOWN
    assert len([chunk for chunk in chunks if provider.text_of(chunk)]) > 1
    assert whole.usage_metadata["output_tokens"] > 0
    assert whole.usage_metadata["total_tokens"] > 0


async def test_async(provider: Provider, model: BaseChatModel) -> None:
    assert (await model.ainvoke(scenes.SAYS_MARKDOWN)).content == scenes.MARKDOWN
    assert "".join([provider.text_of(chunk) async for chunk in model.astream(scenes.SAYS_MARKDOWN)]) == scenes.MARKDOWN


@pytest.mark.parametrize("streaming", [False, True])
def test_tool_loop(provider: Provider, proxy: Proxy, streaming: bool) -> None:
    model = provider.chat(proxy, streaming=streaming).bind_tools([get_weather])
    messages: list[Any] = [HumanMessage(scenes.ASKS_FOR_WEATHER)]
    messages.append(model.invoke(messages))
    assert [call["args"] for call in messages[-1].tool_calls] == [{"city": "Paris"}]
    assert messages[-1].invalid_tool_calls == []
    messages += [get_weather.invoke(call) for call in messages[-1].tool_calls]
    assert isinstance(messages[-1], ToolMessage)
    assert scenes.WEATHER in provider.text_of(model.invoke(messages))


def test_parallel_calls_in_a_stream_stay_apart(model: BaseChatModel) -> None:
    chunks = list(model.bind_tools([get_weather]).stream(scenes.CALLS_TWICE))
    calls = sum(chunks[1:], chunks[0]).tool_calls
    assert [call["args"]["city"] for call in calls] == ["Rome", "Oslo"]


def test_tool_choice_any_and_by_name(model: BaseChatModel) -> None:
    for choice in ("any", "get_weather"):
        assert model.bind_tools([get_weather], tool_choice=choice).invoke("Hello!").tool_calls


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(model: BaseChatModel, method: str) -> None:
    assert isinstance(model.with_structured_output(scenes.City, method=method).invoke("Describe Paris"), scenes.City)


def test_json_mode_of_openai(proxy: Proxy) -> None:
    model = chat_openai(proxy).with_structured_output(None, method="json_mode")
    assert isinstance(model.invoke("Answer in JSON"), dict)


def test_reasoning_effort_of_openai(proxy: Proxy) -> None:
    assert chat_openai(proxy).invoke("Think!", reasoning_effort="low").content


def test_thinking_of_anthropic(proxy: Proxy) -> None:
    thinker = chat_anthropic(proxy, thinking={"type": "enabled", "budget_tokens": 1024})
    first = thinker.invoke("Think!")
    assert [block["type"] for block in first.content] == ["thinking", "text"]
    assert thinker.invoke([HumanMessage("Think!"), first, HumanMessage("And now?")]).text


def test_counting_of_anthropic(proxy: Proxy) -> None:
    before = proxy.jobs()
    assert chat_anthropic(proxy).get_num_tokens_from_messages([HumanMessage("word " * 100)]) > 50
    assert proxy.jobs() == before


def test_errors(provider: Provider, proxy: Proxy, model: BaseChatModel) -> None:
    with pytest.raises(provider.errors.NotFoundError):
        provider.chat(proxy, model="gpt-99").invoke("hi")
    with pytest.raises(provider.errors.AuthenticationError):
        provider.chat(proxy, api_key="wrong").invoke("hi")
    with pytest.raises(ContextOverflowError):
        model.invoke(scenes.TOO_LONG)
    with pytest.raises(provider.errors.APIError, match="The GPU melted"):
        list(model.stream(scenes.BREAKS))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("chat", "error"), [(chat_openai, openai.APIError), (chat_anthropic, anthropic.InternalServerError)]
)
def test_nothing_is_repeated_that_was_paid_for(proxy: Proxy, chat: Any, error: Any, streaming: bool) -> None:
    before = proxy.jobs()
    with pytest.raises(error, match="The GPU melted"):
        chat(proxy, streaming=streaming).invoke(scenes.fails_once())
    assert proxy.jobs() == before + 1


def test_the_status_of_a_failure_of_openai(proxy: Proxy) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        chat_openai(proxy).invoke(scenes.fails_once())
    assert caught.value.status_code == 424


@pytest.mark.parametrize(
    ("chat", "error"), [(chat_openai, openai.APIError), (chat_anthropic, anthropic.APIStatusError)]
)
def test_a_failure_after_the_stream_began_raises(blank_proxy: Proxy, chat: Any, error: Any) -> None:
    late = script(delay=2 * scenes.SILENCE_S, fail="The GPU melted")
    with pytest.raises(error, match="The GPU melted"):
        list(chat(blank_proxy).stream(late))


async def test_cancellation(provider: Provider, proxy: Proxy, request_id: str) -> None:
    model = provider.chat(proxy, default_headers={"x-request-id": request_id})
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(model.ainvoke(scenes.ENDLESS), timeout=0.5)
    await asyncio.to_thread(proxy.left, request_id)


def test_leaving_a_stream_of_openai(proxy: Proxy, request_id: str) -> None:
    stream = chat_openai(proxy, default_headers={"x-request-id": request_id}).stream(scenes.ENDLESS)
    next(stream)
    assert proxy.serves(request_id)
    stream.close()
    proxy.left(request_id)


async def test_a_silent_job_is_waited_for(provider: Provider, proxy: Proxy, blank_proxy: Proxy) -> None:
    async def ask(deployment: Proxy) -> list[str]:
        model = provider.chat(deployment)
        plain = await model.ainvoke(scenes.ENDS_LATE)
        return [plain.content, "".join([provider.text_of(chunk) async for chunk in model.astream(scenes.ENDS_LATE)])]

    assert await asyncio.gather(ask(proxy), ask(blank_proxy)) == [
        [scenes.MARKDOWN, scenes.MARKDOWN],
        [scenes.MARKDOWN, scenes.MARKDOWN],
    ]
