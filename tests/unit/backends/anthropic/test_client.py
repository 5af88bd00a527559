"""Calls of a Messages API over a real socket: events as they come, errors, deadlines. Its clients are tested in `tests/clients`."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from proxy.access.authentication import Caller
from proxy.backends.anthropic import AnthropicBackend
from proxy.backends.anthropic import request as request_module
from proxy.backends.anthropic import response as response_module
from proxy.errors import (
    ContextLengthExceeded,
    InvalidApiKey,
    InvalidRequest,
    JobTimeout,
    ModelNotFound,
    PaidFailure,
    ProxyError,
    RateLimited,
    RequestTooLarge,
    UpstreamError,
)
from proxy.inference.backend import RunOptions
from proxy.inference.endpoints import Endpoint
from proxy.inference.request import JsonOutput, Message, Request, Rules, Text, Tool
from proxy.inference.result import Choice, TextDelta, Usage, fold
from proxy.settings import AnthropicSettings
from tests.messages_api import KEY, MODEL, directive, messages_api
from tests.serving import serve

ME = Caller(KEY, None)
ENDPOINT = Endpoint(id="e", task_type="chat_completion", service="anthropic", model_id=MODEL)


class Running:
    def __init__(self, backend: AnthropicBackend, api: Any) -> None:
        self.backend = backend
        self.api = api

    async def start(self, options: RunOptions | None = None, **what: Any) -> Any:
        request = Request(MODEL, (Message("user", (Text(directive(**what)),), "messages[0]"),))
        return await self.backend.start(request, ME, options or RunOptions())


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    api = messages_api()
    with serve(api) as url:
        settings = AnthropicSettings(base_url=url, max_retries=0)  # type: ignore[arg-type]
        async with aclosing(AnthropicBackend(settings, Rules(), 30.0)) as backend:
            yield Running(backend, api)


async def test_whole_and_streamed_are_the_same(running: Running) -> None:
    result = await (await running.start(text="Hello there.")).result()
    assert (result.id, result.choices, result.usage) == ("0123", (Choice("Hello there."),), Usage(25, 11, 36))
    run = await running.start(text="Hello there.")
    streamed = fold([event async for batch in run.events() for event in batch])
    assert streamed.choices == result.choices
    assert streamed.fingerprint == result.fingerprint
    assert run.report.model == MODEL
    run.close(delivered=True)
    run.close(delivered=False)


async def test_events_come_as_tokens_do(running: Running) -> None:
    run = await running.start(text="first and then more", hold=True)
    said = ""
    async for batch in run.events():
        said += "".join(event.text for event in batch if isinstance(event, TextDelta))
        if said == "first a":  # the upstream waits until this was seen
            running.api.state.release.set()
    assert said == "first and then more"


@pytest.mark.parametrize(
    ("what", "kind", "code", "retry_after"),
    [
        (
            {"status": 400, "message": "prompt is too long: 9 > 8"},
            ContextLengthExceeded,
            "context_length_exceeded",
            None,
        ),
        (
            {"status": 400, "message": "input length and `max_tokens` exceed context limit: 9 + 9 > 8"},
            ContextLengthExceeded,
            "context_length_exceeded",
            None,
        ),
        ({"status": 400, "message": "something else"}, InvalidRequest, None, None),
        ({"status": 401}, InvalidApiKey, "invalid_api_key", None),
        ({"status": 403}, UpstreamError, "anthropic_rejected", None),
        ({"status": 404}, ModelNotFound, "model_not_found", None),
        ({"status": 413}, RequestTooLarge, "request_too_large", None),
        ({"status": 429}, RateLimited, "rate_limit_exceeded", 7.0),
        ({"status": 408}, UpstreamError, "anthropic_unavailable", 7.0),
        ({"status": 500}, UpstreamError, "anthropic_unavailable", 7.0),
        ({"status": 529}, UpstreamError, "anthropic_unavailable", 7.0),
    ],
)
async def test_refusals(
    running: Running, what: dict[str, Any], kind: type[ProxyError], code: str | None, retry_after: float | None
) -> None:
    with pytest.raises(kind) as caught:
        await running.start(**what)
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.retry_after) == (code, retry_after)


async def test_a_message_that_repeats_the_key_is_shown_without_it(running: Running) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await running.start(status=400, message=f"the key {KEY} is odd")
    assert KEY not in caught.value.message


@pytest.mark.parametrize("way", ["result", "events"])
async def test_an_answer_that_breaks_off_is_a_paid_failure(running: Running, way: str) -> None:
    run = await running.start(text="a long text", broken=True)

    async def events() -> list[Any]:
        return [event async for batch in run.events() for event in batch]

    with pytest.raises(PaidFailure) as caught:
        await {"result": run.result, "events": events}[way]()
    assert (caught.value.code, caught.value.retry_after) == ("anthropic_failed", None)
    assert "Overloaded" in caught.value.message


async def test_an_answer_that_takes_too_long_is_a_timeout(running: Running) -> None:
    run = await running.start(RunOptions(timeout_s=0.5), text="first and then more", hold=True)
    with pytest.raises(JobTimeout):
        await run.result()
    running.api.state.release.set()


async def test_no_key_is_no_call(running: Running) -> None:
    request = Request(MODEL, (Message("user", (Text("hi"),), "messages[0]"),))
    with pytest.raises(InvalidApiKey):
        await running.backend.start(request, Caller(None, None), RunOptions())
    assert not running.api.state.requests


async def test_a_large_request_is_prepared_beside_the_event_loop(running: Running) -> None:
    texts = tuple(Text(f"line {n}") for n in range(5_000))
    request = Request(MODEL, (Message("user", texts, "messages[0]"),), body_bytes=100_000)
    result = await (await running.backend.start(request, ME, RunOptions())).result()
    assert result.choices[0].text == "Hello, how can I help?"
    assert len(running.api.state.requests[-1]["messages"][0]["content"]) == 5_000


async def test_schemas_are_compiled_and_applied_beside_the_event_loop(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[int]] = {}

    def noting(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            called = f"{name} of parameters" if "parameters" in options else name
            threads.setdefault(called, set()).add(threading.get_ident())
            return work(*arguments, **options)

        return noted

    for module, name in (
        (request_module, "compile_schema"),
        (response_module, "coerce"),
        (response_module, "validate"),
    ):
        monkeypatch.setattr(module, name, noting(name, getattr(module, name)))
    schema = {"type": "object", "properties": {"the city": {"type": "integer"}}, "required": ["the city"]}
    said = directive(text='{"the_city": "3"}', calls=[{"name": "find", "input": {"the_city": "3"}}])
    request = Request(
        MODEL,
        (Message("user", (Text(said),), "messages[0]"),),
        tools=(Tool("find", parameters=schema),),
        output=JsonOutput(schema),
        body_bytes=5_000,
    )
    result = await (await running.backend.start(request, ME, RunOptions())).result()
    assert result.choices[0].text == '{"the city":3}'
    assert result.choices[0].tool_calls[0].arguments == {"the city": 3}
    assert threads.keys() == {"compile_schema", "compile_schema of parameters", "coerce", "validate"}
    assert threading.get_ident() not in set().union(*threads.values())


async def test_keys_and_models_can_be_verified(running: Running) -> None:
    await running.backend.verify(ENDPOINT, KEY)
    with pytest.raises(InvalidApiKey):
        await running.backend.verify(ENDPOINT, "wrong")
    with pytest.raises(ModelNotFound):
        await running.backend.verify(ENDPOINT.model_copy(update={"model_id": "claude-none"}), KEY)


async def test_a_service_that_is_away_is_unavailable() -> None:
    settings = AnthropicSettings(base_url="http://127.0.0.1:1", max_retries=0)  # type: ignore[arg-type]
    async with aclosing(AnthropicBackend(settings, Rules(), 30.0)) as backend:
        with pytest.raises(UpstreamError) as caught:
            await asyncio.wait_for(backend.verify(ENDPOINT, KEY), 30)
    assert (caught.value.code, caught.value.retry_after) == ("anthropic_unavailable", 1.0)


def test_the_sdk_is_imported_at_the_first_use_only() -> None:
    program = "import sys, proxy.backends.anthropic; sys.exit('anthropic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
