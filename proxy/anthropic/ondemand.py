"""The upstream, opened at its first use: importing the SDK takes a second or so and 40 MB, for nothing where no endpoint needs it."""

import asyncio
from contextlib import AsyncExitStack
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Self

from proxy.access.authentication import Caller
from proxy.serving.upstream import DEFAULT_TERMS, Answer, Terms
from proxy.settings import AnthropicSettings
from proxy.translate.plan import PlanRules
from proxy.wire.openai import ChatRequest

if TYPE_CHECKING:
    from proxy.anthropic.upstream import AnthropicUpstream


class AnthropicOnDemand:
    """See `proxy.anthropic.upstream.AnthropicUpstream`. An async context manager that owns the connections."""

    def __init__(self, settings: AnthropicSettings, rules: PlanRules, deadline_s: float) -> None:
        self._settings = settings
        self._rules = rules
        self._deadline_s = deadline_s
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._opened: AnthropicUpstream | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def accept(self, request: ChatRequest, caller: Caller, terms: Terms = DEFAULT_TERMS) -> Answer:
        return await (await self._upstream()).accept(request, caller, terms)

    async def verify(self, model: str, api_key: str) -> None:
        await (await self._upstream()).verify(model, api_key)

    async def _upstream(self) -> "AnthropicUpstream":
        async with self._opening:
            if self._opened is None:
                # In a thread of its own, so that the event loop goes on meanwhile.
                module = await asyncio.to_thread(import_module, "proxy.anthropic.upstream")
                opening = module.open_upstream(self._settings, self._rules, self._deadline_s)
                opened: AnthropicUpstream = await self._stack.enter_async_context(opening)
                self._opened = opened
            return self._opened
