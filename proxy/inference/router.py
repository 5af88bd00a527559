"""From a model's name to the backend that serves it: a model of the catalog or a named endpoint, within its limits, or its fallback.

checks → name → target (may the caller use it?) → limits → the target's backend │ is it down? → the fallback's
"""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid5

import structlog

from proxy.access.authentication import Caller
from proxy.access.limits import NO_QUOTA, Lease, Quota, RateLimits, Rule
from proxy.catalog import Catalog
from proxy.errors import InvalidApiKey, InvalidRequest, PermissionDenied, ProxyError, UpstreamError
from proxy.inference.backend import Backend, Report, Run, RunOptions
from proxy.inference.endpoints import Endpoint, Endpoints, find_model
from proxy.inference.request import Request, Rules
from proxy.inference.result import Ended, Event, Result

_DOWN = frozenset({"narrative_unavailable", "anthropic_unavailable"})
_RETRY_S = 3.0
"""Seconds for which a backend that is down is asked again before its fallback is."""
_USUAL_REPLY_TOKENS = 512
_BYTES_PER_TOKEN = 4
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a name leads.

    Attributes:
        request, caller: as the backend is to have them.
        rule: the limit of all callers together.
        endpoint: it is a named endpoint, whose credentials are not the caller's.
        fallback: the name to try while the backend is down.
    """

    name: str
    backend: Backend
    request: Request
    caller: Caller
    rule: Rule
    endpoint: bool
    fallback: str | None


@dataclass(frozen=True, slots=True)
class Router:
    """A backend in front of all others; see `proxy.inference.backend.Backend`.

    Attributes:
        backends: by the name of the service. Models of the catalog are served by `narrative`.
        usual: the limits of callers whose keys have none of their own.
        own_token: whether the proxy has a Narrative token of its own, for callers who bring none.
    """

    catalog: Catalog
    endpoints: Endpoints
    backends: Mapping[str, Backend]
    limits: RateLimits
    rules: Rules
    usual: Quota
    own_token: bool
    _releasing: set[asyncio.Task[Any]] = field(default_factory=set, init=False, repr=False, compare=False)

    async def start(self, request: Request, caller: Caller, options: RunOptions) -> Run:
        """See `Backend`.

        Raises:
            ModelNotFound, PermissionDenied, RateLimited: no backend was asked.
            UpstreamError: `endpoint_unauthorized`, an endpoint's own credential is not accepted: not the client's fault.
        """
        check(request, self.rules)
        target = await self._target(request.model, request, caller)
        rules = [caller.rule(self.usual), target.rule]
        leases: list[Lease] = []
        tried = {target.name}
        try:
            while True:
                await self._enter(rules, target, leases)
                retry_s = math.inf if target.fallback is None or target.fallback in tried else _RETRY_S
                try:
                    run = await target.backend.start(target.request, target.caller, replace(options, retry_s=retry_s))
                    break
                except ProxyError as error:
                    if leases:
                        error.headers = {**leases[0].headers, **error.headers}
                    if target.endpoint and isinstance(error, InvalidApiKey):
                        message = f"The credentials of endpoint `{target.name}` are not accepted by its service."
                        refusal = UpstreamError(message, code="endpoint_unauthorized")
                        refusal.headers = error.headers
                        raise refusal from error
                    other = await self._fallback(target, error, tried, request, caller)
                    if other is None:
                        raise
                log.warning("fallback", down=target.name, to=other.name)
                target, rules = other, [other.rule]
                tried.add(target.name)
                if options.record is not None:  # tells the jobs of the fallback from those of the first target
                    seed = uuid5(options.record.seed, target.name)
                    options = replace(options, record=replace(options.record, prefix=f"{target.name}:", seed=seed))
        except BaseException:
            for lease in leases:
                await lease.release()
            raise
        served_by = "" if target.name == request.model else target.name
        return RoutedRun(run, leases, served_by, self._releasing) if leases or served_by else run

    async def aclose(self) -> None:
        """Wait until the leases of closed runs are released."""
        if self._releasing:
            await asyncio.wait(self._releasing)

    async def _enter(self, rules: Sequence[Rule], target: Target, leases: list[Lease]) -> None:
        """Count a request against some rules, unless none of them limits anything. Raises RateLimited."""
        asked = target.request
        for rule in rules:
            if rule.quota != NO_QUOTA:
                most = asked.choices * (asked.max_tokens or _USUAL_REPLY_TOKENS)
                tokens = asked.body_bytes // _BYTES_PER_TOKEN + most
                leases.append(await self.limits.enter(rules, tokens=tokens, jobs=asked.choices))
                return

    async def _fallback(
        self, target: Target, error: ProxyError, tried: set[str], request: Request, caller: Caller
    ) -> Target | None:
        """What to try instead of a target whose backend is down; None when there is nothing, or this was another error."""
        if error.code not in _DOWN or target.fallback is None or target.fallback in tried:
            return None
        try:
            return await self._target(target.fallback, request, caller)
        except ProxyError as refusal:
            log.warning("no fallback", down=target.name, to=target.fallback, code=refusal.code)
            return None

    async def _target(self, name: str, request: Request, caller: Caller) -> Target:
        """Where a name leads for a caller. Raises as `find_model`, and PermissionDenied."""
        found = await find_model(name, caller, self.catalog, self.endpoints)
        if isinstance(found, Endpoint):
            key = await self.endpoints.api_key(found)
            if found.data_plane_id is not None:
                if caller.bound_plane not in (None, found.data_plane_id):
                    raise PermissionDenied("This API key has no access to the data plane of that endpoint.")
                caller = replace(caller, data_plane_id=found.data_plane_id)
            return Target(
                name,
                self.backends[found.service],
                found.request_for(request),
                replace(caller, upstream_key=key),
                Rule(f"endpoint:{name}", Quota(requests=found.requests_per_minute)),
                endpoint=True,
                fallback=found.fallback,
            )
        card = found.card
        if caller.upstream_key is None and not self.own_token:
            raise PermissionDenied("This API key gives access to named endpoints only.", param="model")
        adjusted = (*request.adjusted, found.adjusted) if found.adjusted else request.adjusted
        return Target(
            name,
            self.backends["narrative"],
            replace(request, model=card.id, adjusted=adjusted),
            caller,
            Rule(f"model:{card.id}", Quota(requests=card.requests_per_minute, tokens=card.tokens_per_minute)),
            endpoint=False,
            fallback=card.fallback,
        )


@dataclass(slots=True)
class RoutedRun:
    """A run whose tokens are counted and whose leases are released at its end; see `proxy.inference.backend.Run`.

    Attributes:
        served_by: the name of what serves the request where it is not the one asked for, else empty.
        releasing: holds the tasks that release leases of runs that were closed before their end.
    """

    run: Run
    leases: list[Lease]
    served_by: str
    releasing: set[asyncio.Task[Any]]
    _tokens: int = 0
    _released: bool = False

    @property
    def report(self) -> Report:
        """See `Run`; with the headers of the limits, those of the target asked for first."""
        limits: dict[str, str] = {}
        for lease in reversed(self.leases):
            limits |= lease.headers
        return replace(self.run.report, served_by=self.served_by, rate_limits=limits)

    async def result(self) -> Result:
        """See `Run`."""
        try:
            result = await self.run.result()
            self._tokens = result.usage.total_tokens
            return result
        finally:
            await self._release()

    async def events(self) -> AsyncIterator[Iterable[Event]]:
        """See `Run`."""
        try:
            async for batch in self.run.events():
                yield self._counted(batch)
        finally:
            await self._release()

    def close(self, *, delivered: bool) -> None:
        """See `Run`; leases that are still held are released."""
        self.run.close(delivered=delivered)
        if self._released:
            return
        task = asyncio.get_running_loop().create_task(self._release())
        self.releasing.add(task)
        task.add_done_callback(self.releasing.discard)

    def _counted(self, batch: Iterable[Event]) -> Iterator[Event]:
        for event in batch:
            if isinstance(event, Ended):
                self._tokens = event.usage.total_tokens
            yield event

    async def _release(self) -> None:
        """Release the leases; count the tokens used. The estimate stays where those are not known.

        A run may be closed when its answer was delivered, before its usage is known: leases make sure that each counts once.
        """
        self._released = True
        for lease in self.leases:
            await lease.release(self._tokens)


def check(request: Request, rules: Rules) -> None:
    """Check what no API and no backend need check again.

    Raises:
        InvalidRequest: too many choices or tools, or names of tools that are blank or alike.
    """
    if request.choices > rules.max_choices:
        raise InvalidRequest(f"`n` is {request.choices}; expected {rules.max_choices} at most.", param="n")
    if len(request.tools) > rules.max_tools:
        param = request.tools[0].path.partition("[")[0] or "tools"
        message = f"`{param}` holds {len(request.tools)} tools; expected {rules.max_tools} at most."
        raise InvalidRequest(message, param=param)
    seen: set[str] = set()
    for tool in request.tools:
        path = f"{tool.path}.name"
        if not tool.name.strip():
            raise InvalidRequest(f"`{path}` is blank; expected a name.", param=path)
        if tool.name in seen:
            raise InvalidRequest(
                f"`{path}`: a second tool is named {tool.name[:128]!r}; names must differ.", param=path
            )
        seen.add(tool.name)
