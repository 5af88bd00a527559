"""Answers from Anthropic's Messages API, by the official SDK. Every call streams: one way to read, whole or piece by piece.

The point of no return is the first event: whatever is wrong before it is an error with a status of its own.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2
from anthropic import AsyncAnthropic, AsyncStream
from anthropic.types import RawMessageStartEvent, RawMessageStreamEvent

from proxy.access.authentication import Caller
from proxy.anthropic.call import MessagesCall, make_call
from proxy.anthropic.errors import SDK_ERRORS, broken_off, refused
from proxy.anthropic.reading import Reader
from proxy.errors import InvalidApiKey, JobTimeout, UpstreamError
from proxy.serving.upstream import DEFAULT_TERMS, Terms
from proxy.settings import AnthropicSettings
from proxy.translate.plan import PlanRules
from proxy.translate.reply import Stamp
from proxy.wire import openai as chat

BASE_URL = "https://api.anthropic.com"


@dataclass(frozen=True, slots=True)
class AnthropicUpstream:
    """Answers chat requests whose caller brings an Anthropic API key; see `proxy.serving.upstream.Upstream`.

    Attributes:
        rules: the operator's, as far as they are not about the envelope.
        deadline_s: seconds a request may take overall.
    """

    client: AsyncAnthropic
    rules: PlanRules
    default_max_tokens: int
    deadline_s: float

    async def accept(
        self, request: chat.ChatRequest, caller: Caller, terms: Terms = DEFAULT_TERMS
    ) -> "AnthropicAnswer":
        key = caller.upstream_key
        if key is None:
            raise InvalidApiKey("No Anthropic API key.")
        call = make_call(request, self.rules, default_max_tokens=self.default_max_tokens)
        deadline = asyncio.get_running_loop().time() + min(self.deadline_s, terms.patience_s)
        try:
            async with asyncio.timeout_at(deadline):
                client = self.client.with_options(api_key=key)
                stream = await client.messages.create(**call.body, extra_body=call.sampling, stream=True)
                try:
                    first = await anext(stream)
                except BaseException:
                    await stream.close()
                    raise
        except TimeoutError:
            raise _too_late() from None
        except StopAsyncIteration:
            raise UpstreamError("Anthropic's answer is empty.", code="anthropic_failed") from None
        except SDK_ERRORS as error:
            raise refused(error, key) from error
        return AnthropicAnswer(call, stream, first, str(self.client.base_url), key, deadline)

    async def verify(self, model: str, api_key: str) -> None:
        """Have one token generated, to see that key and model are accepted. Raises ProxyError."""
        messages = [{"role": "user", "content": "Hi"}]
        try:
            await self.client.with_options(api_key=api_key).messages.create(
                model=model,
                max_tokens=1,
                messages=messages,  # type: ignore[arg-type]  # a literal of that shape
            )
        except SDK_ERRORS as error:
            raise refused(error, api_key) from error


class AnthropicAnswer:
    """An answer whose first event has arrived; see `proxy.serving.upstream.Answer`."""

    def __init__(  # noqa: PLR0913, PLR0917  all of it is known only together
        self,
        call: MessagesCall,
        stream: AsyncStream[RawMessageStreamEvent],
        first: RawMessageStreamEvent,
        base_url: str,
        api_key: str,
        deadline: float,
    ) -> None:
        self._call = call
        self._stream = stream
        self._first = first
        self._api_key = api_key
        self._deadline = deadline
        self._reader = Reader(call)
        message_id = first.message.id if isinstance(first, RawMessageStartEvent) else ""
        fingerprint = hashlib.sha256(base_url.encode()).hexdigest()[:10]
        self._stamp = Stamp(
            id=f"chatcmpl-{message_id.removeprefix('msg_')}",
            created=int(time.time()),
            model=str(call.body["model"]),
            fingerprint=f"fp_{fingerprint}",
        )
        self._closing: asyncio.Task[None] | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        headers = {
            "x-proxy-model": self._stamp.model,
            "x-proxy-ignored": ", ".join(self._call.ignored),
            "x-proxy-adjusted": ", ".join(self._call.adjusted),
        }
        return {name: value for name, value in headers.items() if value}

    async def whole(self) -> chat.ChatCompletion:
        async for event in self._events():
            for _ in self._reader.read(event):
                pass
        return self._reader.completion(self._stamp)

    async def batches(self) -> AsyncIterator[Sequence[chat.Chunk]]:
        yield [self._chunk({"role": "assistant", "content": ""})]
        async for event in self._events():
            if deltas := [self._chunk(delta) for delta in self._reader.read(event)]:
                yield deltas
        yield list(self._last_chunks())

    def close(self, *, delivered: bool) -> None:
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._stream.close())

    async def _events(self) -> AsyncIterator[RawMessageStreamEvent]:
        """All events up to the message's own end.

        Raises:
            UpstreamError: `anthropic_failed`, they ended without it.
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
            raise UpstreamError("Anthropic's answer broke off.", code="anthropic_failed") from None
        except SDK_ERRORS as error:
            raise broken_off(error, self._api_key) from error
        finally:
            self.close(delivered=False)

    def _last_chunks(self) -> list[chat.Chunk]:
        last = [self._chunk({}, finish=self._reader.finish)]
        if self._call.include_usage:
            last.append({**self._chunk({}), "choices": [], "usage": self._reader.usage})
        return last

    def _chunk(self, delta: chat.Delta, finish: chat.FinishReason | None = None) -> chat.Chunk:
        chunk: chat.Chunk = {
            "id": self._stamp.id,
            "object": "chat.completion.chunk",
            "created": self._stamp.created,
            "model": self._stamp.model,
            "system_fingerprint": self._stamp.fingerprint,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}],
        }
        if self._call.include_usage:
            chunk["usage"] = None
        return chunk


def _too_late() -> JobTimeout:
    return JobTimeout("Anthropic's answer did not end in time.")


@asynccontextmanager
async def open_upstream(
    settings: AnthropicSettings, rules: PlanRules, deadline_s: float
) -> AsyncIterator[AnthropicUpstream]:
    """The upstream with its connections. Its client has no credential of its own; each call brings one."""
    timeout = httpx2.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s)
    async with AsyncAnthropic(
        api_key="none",
        base_url=settings.base_url or BASE_URL,
        timeout=timeout,
        max_retries=settings.max_retries,
        default_headers={"anthropic-version": settings.version},
        open_telemetry=False,
    ) as client:
        yield AnthropicUpstream(client, rules, settings.default_max_tokens, deadline_s)
