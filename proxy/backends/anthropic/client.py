"""Calls of Anthropic's Messages API, by the official SDK. Every call streams: one way to read, whole or piece by piece.

The first event decides: whatever is wrong before it is refused with a status of its own. Importing this module imports the SDK.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anthropic
import httpx2
from anthropic import AsyncAnthropic, AsyncStream
from anthropic.types import RawMessageStartEvent, RawMessageStreamEvent

from proxy.access.authentication import Caller
from proxy.backends.anthropic.request import MessagesCall, prepare
from proxy.backends.anthropic.response import MessageReader
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
    redact,
)
from proxy.inference.backend import Report, RunOptions
from proxy.inference.request import Request, Rules
from proxy.inference.result import Event, Result, Started, fold
from proxy.settings import AnthropicSettings

BASE_URL = "https://api.anthropic.com"
_SDK_ERRORS = (anthropic.AnthropicError, httpx2.HTTPError)
_TOO_LONG = re.compile(r"prompt is too long|context (window|length|limit)|input length and `?max_tokens", re.IGNORECASE)
_DEFAULT_PAUSE_S = 1.0
_HEAVY_BODY = 65_536
"""Bytes of a request body from which preparing a request may take long."""


@dataclass(frozen=True, slots=True)
class AnthropicClient:
    """See `proxy.backends.anthropic.AnthropicBackend`. Its SDK client has no credential of its own; each call brings one."""

    sdk: AsyncAnthropic
    rules: Rules
    default_max_tokens: int
    deadline_s: float

    async def start(self, request: Request, caller: Caller, options: RunOptions) -> "AnthropicRun":
        key = caller.upstream_key
        if key is None:
            raise InvalidApiKey("No Anthropic API key.")
        call = await self._prepared(request)
        deadline = asyncio.get_running_loop().time() + min(self.deadline_s, options.timeout_s)
        try:
            async with asyncio.timeout_at(deadline):
                client = self.sdk.with_options(api_key=key)
                stream = await client.messages.create(**call.body, extra_body=call.sampling, stream=True)
                try:
                    first = await anext(stream)
                except BaseException:
                    await stream.close()
                    raise
        except TimeoutError:
            raise _too_late() from None
        except StopAsyncIteration:
            raise PaidFailure("Anthropic's answer is empty.", code="anthropic_failed") from None
        except _SDK_ERRORS as error:
            raise _refused(error, key) from error
        return AnthropicRun(call, stream, first, base_url=str(self.sdk.base_url), api_key=key, deadline=deadline)

    async def verify(self, model: str, api_key: str) -> None:
        """Have one token generated, to see that key and model are accepted. Raises ProxyError."""
        messages = [{"role": "user", "content": "Hi"}]
        try:
            await self.sdk.with_options(api_key=api_key).messages.create(
                model=model,
                max_tokens=1,
                messages=messages,  # type: ignore[arg-type]  # a literal of that shape
            )
        except _SDK_ERRORS as error:
            raise _refused(error, api_key) from error

    async def _prepared(self, request: Request) -> MessagesCall:
        if request.body_bytes < _HEAVY_BODY:
            return prepare(request, self.rules, default_max_tokens=self.default_max_tokens)
        return await asyncio.to_thread(prepare, request, self.rules, default_max_tokens=self.default_max_tokens)


class AnthropicRun:
    """An answer whose first event has arrived; see `proxy.inference.backend.Run`. Its deadline is in the time of the event loop."""

    def __init__(  # noqa: PLR0913
        self,
        call: MessagesCall,
        stream: AsyncStream[RawMessageStreamEvent],
        first: RawMessageStreamEvent,
        *,
        base_url: str,
        api_key: str,
        deadline: float,
    ) -> None:
        self._call = call
        self._stream = stream
        self._first = first
        self._fingerprint = hashlib.sha256(base_url.encode()).hexdigest()[:10]
        self._api_key = api_key
        self._deadline = deadline
        self._reader = MessageReader(call)
        self._created = int(time.time())
        self._closing: asyncio.Task[None] | None = None

    @property
    def report(self) -> Report:
        call = self._call
        model = str(call.body["model"])
        return Report(model, (), call.ignored, call.adjusted, self._reader.unmatched)

    async def result(self) -> Result:
        return fold([event async for batch in self.events() for event in batch])

    async def events(self) -> AsyncIterator[Iterable[Event]]:
        message_id = self._first.message.id if isinstance(self._first, RawMessageStartEvent) else ""
        yield (Started(message_id.removeprefix("msg_"), self._created, self._fingerprint, 1),)
        async for event in self._received():
            if read := tuple(self._reader.read(event)):
                yield read

    def close(self, *, delivered: bool) -> None:
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._stream.close())

    async def _received(self) -> AsyncIterator[RawMessageStreamEvent]:
        """All events up to the message's own end.

        Raises:
            PaidFailure: `anthropic_failed`, they ended without it.
            JobTimeout: it did not come in time.
        """
        yield self._first
        try:
            while not self._reader.ended:
                async with asyncio.timeout_at(self._deadline):
                    event = await anext(self._stream)
                yield event
        except TimeoutError:
            raise _too_late() from None
        except StopAsyncIteration:
            raise PaidFailure("Anthropic's answer broke off.", code="anthropic_failed") from None
        except _SDK_ERRORS as error:
            message = f"Anthropic's answer broke off: {_text(error, self._api_key)}"
            raise PaidFailure(message, code="anthropic_failed") from error
        finally:
            self.close(delivered=False)


@asynccontextmanager
async def open_client(settings: AnthropicSettings, rules: Rules, deadline_s: float) -> AsyncIterator[AnthropicClient]:
    """The client with its connections, closed at the end."""
    timeout = httpx2.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s)
    async with AsyncAnthropic(
        api_key="none",
        base_url=settings.base_url or BASE_URL,
        timeout=timeout,
        max_retries=settings.max_retries,
        default_headers={"anthropic-version": settings.version},
        open_telemetry=False,
    ) as sdk:
        yield AnthropicClient(sdk, rules, settings.default_max_tokens, deadline_s)


# ---------------------------------------------------------------- errors


def _too_late() -> JobTimeout:
    return JobTimeout("Anthropic's answer did not end in time.")


def _refused(error: Exception, api_key: str) -> ProxyError:
    """The error for a request that was not accepted: nothing was generated, nothing is paid."""
    if not isinstance(error, anthropic.APIStatusError):
        message = f"Anthropic cannot be reached ({type(error).__name__})."
        return UpstreamError(message, code="anthropic_unavailable", retry_after=_DEFAULT_PAUSE_S)
    text = _text(error, api_key)
    message = f"Anthropic refused the request: {text}"
    match error.status_code:
        case 400 | 422 if _TOO_LONG.search(text):
            return ContextLengthExceeded(message, param="messages")
        case 400 | 422:
            return InvalidRequest(message)
        case 401:
            return InvalidApiKey("Anthropic does not accept the API key.")
        case 404:
            return ModelNotFound(message, param="model")
        case 413:
            return RequestTooLarge(message)
        case 429:
            return RateLimited(message, retry_after=_pause(error))
        case status if status >= 500 or status == 408:
            message = f"Anthropic is not available: {text}"
            return UpstreamError(message, code="anthropic_unavailable", retry_after=_pause(error))
        case _:
            return UpstreamError(message, code="anthropic_rejected")


def _text(error: Exception, api_key: str) -> str:
    """Anthropic's own message, without keys that it may repeat; else the kind of error."""
    body = error.body if isinstance(error, anthropic.APIError) else None
    inner = body.get("error") if isinstance(body, dict) else None
    message = inner.get("message") if isinstance(inner, dict) else None
    return redact(message, [api_key])[:1_000] if isinstance(message, str) and message else type(error).__name__


def _pause(error: anthropic.APIStatusError) -> float:
    try:
        return max(float(error.response.headers.get("retry-after", "")), _DEFAULT_PAUSE_S)
    except ValueError:
        return _DEFAULT_PAUSE_S
