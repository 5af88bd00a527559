"""Anthropic's Messages API as a backend: requests and events translated, tokens streamed as they come."""

import asyncio
from contextlib import AsyncExitStack
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Self

from proxy.access.authentication import Caller
from proxy.inference.backend import Run, RunOptions
from proxy.inference.request import Request, Rules
from proxy.settings import AnthropicSettings

if TYPE_CHECKING:
    from proxy.backends.anthropic.client import AnthropicClient


class AnthropicBackend:
    """Serves requests whose caller brings an Anthropic API key; see `proxy.inference.backend.Backend`. An async context manager.

    The SDK is imported at the first use: that takes a second and 40 MB, for nothing where no endpoint needs it.

    Args:
        deadline_s: seconds a request may take overall.
    """

    def __init__(self, settings: AnthropicSettings, rules: Rules, deadline_s: float) -> None:
        self._settings = settings
        self._rules = rules
        self._deadline_s = deadline_s
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._client: AnthropicClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def start(self, request: Request, caller: Caller, options: RunOptions) -> Run:
        return await (await self._opened()).start(request, caller, options)

    async def verify(self, model: str, api_key: str) -> None:
        """Have one token generated, to see that key and model are accepted. Raises ProxyError."""
        await (await self._opened()).verify(model, api_key)

    async def _opened(self) -> "AnthropicClient":
        async with self._opening:
            if self._client is None:
                # In a worker thread, so that the event loop goes on meanwhile.
                module = await asyncio.to_thread(import_module, "proxy.backends.anthropic.client")
                opening = module.open_client(self._settings, self._rules, self._deadline_s)
                client: AnthropicClient = await self._stack.enter_async_context(opening)
                self._client = client
            return self._client
