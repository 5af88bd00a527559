"""Anthropic's Messages API as a backend: requests and events translated, tokens streamed as they come."""

import asyncio
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from proxy.access.authentication import Caller
from proxy.inference.backend import Run, RunOptions
from proxy.inference.endpoints import Endpoint
from proxy.inference.request import Message, Request, Rules, Text
from proxy.settings import AnthropicSettings
from proxy.tracing import Tracer

if TYPE_CHECKING:
    from proxy.backends.anthropic.client import AnthropicClient


@dataclass(slots=True)
class AnthropicBackend:
    """Serves requests whose caller brings an Anthropic API key; see `proxy.inference.backend.Backend`. Must be closed.

    A request may take `deadline_s` seconds overall; the tracer makes a span of each call. The SDK is imported at the first use: that takes
    a second and 40 MB, for nothing where no endpoint needs it.
    """

    settings: AnthropicSettings
    rules: Rules
    deadline_s: float
    tracer: Tracer | None = None
    _client: "AnthropicClient | None" = None

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.sdk.close()

    async def start(self, request: Request, caller: Caller, options: RunOptions) -> Run:
        if self._client is None:
            # In a worker thread, so that the event loop goes on meanwhile.
            module = await asyncio.to_thread(import_module, "proxy.backends.anthropic.client")
            self._client = self._client or module.AnthropicClient(self)
        return await self._client.start(request, caller, options)

    async def verify(self, endpoint: Endpoint, api_key: str | None) -> None:
        """Have one token generated, to see that key and model are accepted. Raises ProxyError."""
        request = Request(endpoint.model_id, (Message("user", (Text("Hi"),)),), max_tokens=1)
        await (await self.start(request, Caller(api_key, None), RunOptions())).result()
