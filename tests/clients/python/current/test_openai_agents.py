"""`openai-agents` on the Responses API, as it is by default, and with its chat-completions model."""

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest
import scenes
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIProvider,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from agents.exceptions import AgentsException
from agents.items import ReasoningItem
from conftest import Proxy
from openai import AsyncOpenAI
from openai.types.shared import Reasoning

MakeAgent = Callable[..., Agent]


@function_tool
def get_weather(city: str) -> str:
    """The current weather in a city."""
    return scenes.WEATHER


@function_tool
def what_time() -> str:
    """The time: a tool without parameters."""
    return "noon"


@pytest.fixture(autouse=True)
def no_tracing() -> None:
    set_tracing_disabled(True)  # traces would go to OpenAI


def client(proxy: Proxy, **options: Any) -> AsyncOpenAI:
    return AsyncOpenAI(**{"base_url": proxy.base_url, "api_key": proxy.key, **options})


@pytest.fixture(params=[OpenAIChatCompletionsModel, OpenAIResponsesModel])
def agent(request: pytest.FixtureRequest) -> MakeAgent:
    """Makes an agent with a client, on either API."""

    def make(openai_client: AsyncOpenAI, model: str = scenes.MODEL, **options: Any) -> Agent:
        return Agent("helper", model=request.param(model, openai_client), **options)

    return make


async def run(helper: Agent, text: str, *, streamed: bool = False, **options: Any) -> Any:
    if not streamed:
        return await Runner.run(helper, text, **options)
    result = Runner.run_streamed(helper, text, **options)
    async for _ in result.stream_events():
        pass
    return result


both_ways = pytest.mark.parametrize("streamed", [False, True])


async def test_plain(proxy: Proxy, agent: MakeAgent) -> None:
    result = await run(agent(client(proxy), instructions="Be brief."), scenes.SAYS_MARKDOWN)
    assert result.final_output == scenes.MARKDOWN
    assert result.context_wrapper.usage.output_tokens > 0


async def test_by_the_name_of_a_model(proxy: Proxy) -> None:
    config = RunConfig(model_provider=OpenAIProvider(openai_client=client(proxy)))
    assert (
        await run(Agent("helper", model=scenes.MODEL), scenes.SAYS_MARKDOWN, run_config=config)
    ).final_output == scenes.MARKDOWN


async def test_stream(proxy: Proxy, agent: MakeAgent) -> None:
    result = Runner.run_streamed(agent(client(proxy)), scenes.SAYS_MARKDOWN)
    pieces = [event.data.delta async for event in result.stream_events()
              if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"]  # fmt: skip
    assert "".join(pieces) == scenes.MARKDOWN == result.final_output
    assert len(pieces) > 1


@both_ways
async def test_tool_loop(proxy: Proxy, agent: MakeAgent, streamed: bool) -> None:
    await _loops(proxy, agent(client(proxy), tools=[get_weather]), streamed=streamed)


@both_ways
async def test_tool_loop_by_the_previous_response(proxy: Proxy, streamed: bool) -> None:
    model = OpenAIResponsesModel(scenes.MODEL, client(proxy))
    helper = Agent("helper", model=model, tools=[get_weather])
    await _loops(proxy, helper, streamed=streamed, auto_previous_response_id=True)


async def _loops(proxy: Proxy, helper: Agent, **options: Any) -> None:
    before = proxy.jobs()
    assert scenes.WEATHER in (await run(helper, scenes.ASKS_FOR_WEATHER, **options)).final_output
    assert proxy.jobs() == before + 2


async def test_a_tool_without_parameters(proxy: Proxy, agent: MakeAgent) -> None:
    helper = agent(client(proxy), tools=[what_time], model_settings=ModelSettings(tool_choice="what_time"))
    result = await run(helper, "what_time")
    assert [item.output for item in result.new_items if item.type == "tool_call_output_item"] == ["noon"]


@both_ways
async def test_parallel_calls(proxy: Proxy, agent: MakeAgent, streamed: bool) -> None:
    result = await run(agent(client(proxy), tools=[get_weather]), scenes.CALLS_TWICE, streamed=streamed)
    calls = [item.raw_item for item in result.new_items if item.type == "tool_call_item"]
    assert [call.arguments for call in calls] == ['{"city":"Rome"}', '{"city":"Oslo"}']


@both_ways
async def test_handoff(proxy: Proxy, agent: MakeAgent, streamed: bool) -> None:
    other = agent(client(proxy))
    other.name = "weather expert"
    helper = agent(client(proxy), handoffs=[other], model_settings=ModelSettings(tool_choice="required"))
    assert (await run(helper, "Hand over, please.", streamed=streamed)).last_agent is other


async def test_structured_output(proxy: Proxy, agent: MakeAgent) -> None:
    result = await run(agent(client(proxy), output_type=scenes.City), "Describe Paris")
    assert isinstance(result.final_output, scenes.City)


@both_ways
async def test_structured_output_after_tools(proxy: Proxy, agent: MakeAgent, streamed: bool) -> None:
    helper = agent(client(proxy), tools=[get_weather], output_type=scenes.City)
    result = await run(helper, scenes.ASKS_FOR_WEATHER, streamed=streamed)
    assert isinstance(result.final_output, scenes.City)
    assert [item.type for item in result.new_items].count("tool_call_item") == 1


@both_ways
@pytest.mark.parametrize(("model", "reasoning"), [
    (OpenAIChatCompletionsModel, Reasoning(effort="low")),
    (OpenAIResponsesModel, Reasoning(effort="low", summary="auto")),
])  # fmt: skip
async def test_thoughts_are_shown_once(proxy: Proxy, model: Any, reasoning: Reasoning, streamed: bool) -> None:
    helper = Agent(
        "helper", model=model(scenes.MODEL, client(proxy)), model_settings=ModelSettings(reasoning=reasoning)
    )
    result = await run(helper, "Think!", streamed=streamed)
    (thought,) = [item.raw_item for item in result.new_items if isinstance(item, ReasoningItem)]
    shown = "".join(part.text for part in (thought.summary or thought.content))
    assert shown
    assert shown != shown[: len(shown) // 2] * 2


async def test_a_conversation_that_goes_on(proxy: Proxy, agent: MakeAgent) -> None:
    helper = agent(client(proxy), tools=[get_weather])
    first = await run(helper, scenes.ASKS_FOR_WEATHER)
    again = [*first.to_input_list(), {"role": "user", "content": scenes.SAYS_MARKDOWN}]
    assert (await Runner.run(helper, again)).final_output == scenes.MARKDOWN


async def test_errors(proxy: Proxy, agent: MakeAgent) -> None:
    with pytest.raises(openai.NotFoundError):
        await run(agent(client(proxy), model="gpt-99"), "hi")
    with pytest.raises(openai.AuthenticationError):
        await run(agent(client(proxy, api_key="wrong")), "hi")
    with pytest.raises(openai.BadRequestError) as caught:
        await run(agent(client(proxy)), scenes.TOO_LONG)
    assert caught.value.code == "context_length_exceeded"


async def test_a_failure_in_a_stream_of_chat_completions(proxy: Proxy) -> None:
    helper = Agent("helper", model=OpenAIChatCompletionsModel(scenes.MODEL, client(proxy)))
    with pytest.raises(openai.APIError, match="The GPU melted"):
        await run(helper, scenes.BREAKS, streamed=True)


async def test_nothing_is_repeated_that_was_paid_for_of_chat_completions(proxy: Proxy) -> None:
    helper = Agent("helper", model=OpenAIChatCompletionsModel(scenes.MODEL, client(proxy)))
    with pytest.raises(openai.APIStatusError) as caught:
        await run(helper, scenes.fails_once())
    assert caught.value.status_code == 424


@both_ways
async def test_a_job_that_fails_costs_no_second_one(proxy: Proxy, agent: MakeAgent, streamed: bool) -> None:
    before = proxy.jobs()
    with pytest.raises((openai.APIError, AgentsException, RuntimeError), match="The GPU melted"):
        await run(agent(client(proxy)), scenes.fails_once(), streamed=streamed)
    assert proxy.jobs() == before + 1


async def test_cancellation(proxy: Proxy, agent: MakeAgent, request_id: str) -> None:
    helper = agent(client(proxy, default_headers={"x-request-id": request_id}))
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(run(helper, scenes.ENDLESS), timeout=0.5)
    await asyncio.to_thread(proxy.left, request_id)


async def test_cancelling_a_streamed_run(proxy: Proxy, agent: MakeAgent, request_id: str) -> None:
    result = Runner.run_streamed(agent(client(proxy, default_headers={"x-request-id": request_id})), scenes.ENDLESS)
    cancelled = False
    async for event in result.stream_events():
        if event.type == "raw_response_event" and not cancelled:
            assert proxy.serves(request_id)
            result.cancel()
            cancelled = True
    assert cancelled
    await asyncio.to_thread(proxy.left, request_id)


@both_ways
async def test_a_silent_job_is_waited_for(proxy: Proxy, blank_proxy: Proxy, agent: MakeAgent, streamed: bool) -> None:
    runs = (run(agent(client(each)), scenes.ENDS_LATE, streamed=streamed) for each in (proxy, blank_proxy))
    assert [result.final_output for result in await asyncio.gather(*runs)] == [scenes.MARKDOWN, scenes.MARKDOWN]
