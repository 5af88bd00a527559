"""Calls of Anthropic's Messages API, by the official SDK. Every call streams: one way to read, whole or piece by piece.

The first event decides: whatever is wrong before it is refused with a status of its own. Importing this module imports the SDK.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import anthropic
import httpx2
from anthropic import AsyncAnthropic, AsyncStream
from anthropic.types import Message, RawContentBlockDeltaEvent, RawMessageStartEvent, RawMessageStreamEvent

from proxy import errors
from proxy.access.authentication import Caller
from proxy.backends.anthropic import AnthropicBackend
from proxy.backends.anthropic.request import prepare
from proxy.backends.anthropic.response import MessageReader
from proxy.inference.backend import Report, RunOptions
from proxy.inference.request import Request
from proxy.inference.result import ChoiceEnded, Ended, Event, NativeEvent, Result, Started, Usage, fold
from proxy.tracing import JobSpan, job_span

_SDK_ERRORS = (anthropic.AnthropicError, httpx2.HTTPError)
_TOO_LONG = re.compile(r"prompt is too long|context (window|length|limit)|input length and `?max_tokens", re.IGNORECASE)
_TOO_LATE = "Anthropic's answer did not end in time."
_DEFAULT_PAUSE_S = 1.0


class AnthropicClient:
    """Runs the backend's requests. Its SDK client, which must be closed, has no credential: each call brings one."""

    def __init__(self, backend: AnthropicBackend) -> None:
        self._backend, settings = backend, backend.settings
        self.sdk = AsyncAnthropic(
            api_key="none",
            base_url=settings.base_url or "https://api.anthropic.com",
            timeout=httpx2.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s),
            max_retries=settings.max_retries,
            default_headers={"anthropic-version": settings.version},
            open_telemetry=False,
        )
        self._prepare = partial(prepare, rules=backend.rules, default_max_tokens=settings.default_max_tokens)
        self._fingerprint = hashlib.sha256(str(self.sdk.base_url).encode()).hexdigest()[:10]

    async def start(self, request: Request, caller: Caller, options: RunOptions) -> "AnthropicRun":
        key = caller.upstream_key
        if key is None:
            raise errors.InvalidApiKey("No Anthropic API key.")
        call = await asyncio.to_thread(self._prepare, request) if request.is_heavy else self._prepare(request)
        if options.accepted is not None:
            options.accepted()
        deadline = asyncio.get_running_loop().time() + min(self._backend.deadline_s, options.timeout_s)
        tracer = self._backend.tracer
        span = job_span(tracer, str(call.body["model"]), request, "anthropic") if tracer else None
        with span or nullcontext():
            try:
                async with asyncio.timeout_at(deadline):
                    # Not by `messages.create`, which does not name every field in every version.
                    stream = await self.sdk.with_options(api_key=key, default_headers=call.headers).post(
                        "/v1/messages",
                        body={**call.body, "stream": True},
                        cast_to=Message,
                        stream=True,
                        stream_cls=AsyncStream[RawMessageStreamEvent],
                    )
                    first = await anext(stream)  # which closes the stream when it fails
            except TimeoutError:
                raise errors.JobTimeout(_TOO_LATE) from None
            except StopAsyncIteration:
                raise errors.PaidFailure("Anthropic's answer is empty.", code="anthropic_failed") from None
            except _SDK_ERRORS as error:
                raise _refused(error, key) from error
        message_id = first.message.id if isinstance(first, RawMessageStartEvent) else ""
        started = Started(message_id.removeprefix("msg_"), int(time.time()), self._fingerprint, 1, call.native)
        return AnthropicRun(MessageReader(call), stream, started, first, key, deadline, span)


@dataclass(slots=True)
class AnthropicRun:
    """An answer whose first event has arrived; see `proxy.inference.backend.Run`. Its deadline is in the time of the event loop."""

    _reader: MessageReader
    _stream: AsyncStream[RawMessageStreamEvent]
    _started: Started
    _first: RawMessageStreamEvent
    _api_key: str
    _deadline: float
    _span: JobSpan | None = None
    _closing: asyncio.Task[None] | None = None

    @property
    def report(self) -> Report:
        call = self._reader.call
        return Report(str(call.body["model"]), (), call.ignored, call.adjusted, self._reader.unmatched)

    async def result(self) -> Result:
        return fold([event async for batch in self.events() for event in batch])

    async def events(self) -> AsyncIterator[Iterable[Event]]:
        """See `Run`. PaidFailure `anthropic_failed`: the message broke off before its end; JobTimeout: that did not come in time."""
        reader, call, event = self._reader, self._reader.call, self._first
        has_schemas = call.answer is not None or bool(call.parameters)
        with self._span or nullcontext():
            yield (self._started,)
            try:
                while True:
                    # One that may end a call or structured output, which a schema applies to, is read in a worker thread.
                    heavy = has_schemas and not isinstance(event, RawContentBlockDeltaEvent)
                    added = reader.read(event)
                    read = await asyncio.to_thread(tuple, added) if heavy else tuple(added)
                    if call.native:
                        ends = [each for each in read if isinstance(each, ChoiceEnded | Ended)]
                        read = (NativeEvent(event.to_dict(mode="json", warnings=False)), *ends)
                    if reader.ended and self._span is not None:
                        finish = next((event.finish_reason for event in read if isinstance(event, ChoiceEnded)), "")
                        usage = next((event.usage for event in read if isinstance(event, Ended)), Usage())
                        self._span.answered(self._started.id, usage.input_tokens, usage.output_tokens)
                        self._span.end(finish_reason=finish)
                    if read:
                        yield read
                    if reader.ended:
                        return
                    async with asyncio.timeout_at(self._deadline):
                        event = await anext(self._stream)
            except TimeoutError:
                raise errors.JobTimeout(_TOO_LATE) from None
            except StopAsyncIteration:
                raise errors.PaidFailure("Anthropic's answer broke off.", code="anthropic_failed") from None
            except _SDK_ERRORS as error:
                message = f"Anthropic's answer broke off: {_text(error, self._api_key)}"
                raise errors.PaidFailure(message, code="anthropic_failed") from error
            finally:
                self.close(delivered=False)

    def close(self, *, delivered: bool) -> None:
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._stream.close())


def _refused(error: Exception, api_key: str) -> errors.ProxyError:
    """The error for a request that was not accepted: nothing was generated, nothing is paid."""
    if not isinstance(error, anthropic.APIStatusError):
        message = f"Anthropic cannot be reached ({type(error).__name__})."
        return errors.UpstreamError(message, code="anthropic_unavailable", retry_after=_DEFAULT_PAUSE_S)
    text = _text(error, api_key)
    message = f"Anthropic refused the request: {text}"
    match error.status_code:
        case 400 | 422 if _TOO_LONG.search(text):
            return errors.ContextLengthExceeded(message, param="messages")
        case 400 | 422:
            return errors.InvalidRequest(message)
        case 401:
            return errors.InvalidApiKey("Anthropic does not accept the API key.")
        case 404:
            return errors.ModelNotFound(message, param="model")
        case 413:
            return errors.RequestTooLarge(message)
        case 429:
            return errors.RateLimited(message, retry_after=_pause(error))
        case status if status >= 500 or status == 408:
            message = f"Anthropic is not available: {text}"
            return errors.UpstreamError(message, code="anthropic_unavailable", retry_after=_pause(error))
        case _:
            return errors.UpstreamError(message, code="anthropic_rejected")


def _text(error: Exception, api_key: str) -> str:
    """Anthropic's own message, without keys that it may repeat; else the kind of error."""
    match error:
        case anthropic.APIError(body={"error": {"message": str(message)}}) if message:
            return errors.redact(message, [api_key])[:1_000]
    return type(error).__name__


def _pause(error: anthropic.APIStatusError) -> float:
    try:
        return max(float(error.response.headers.get("retry-after", "")), _DEFAULT_PAUSE_S)
    except ValueError:
        return _DEFAULT_PAUSE_S
