"""From a model's name to what answers for it: a model of the catalog or a named endpoint, within its limits, or its fallback.

name → target (may the caller use it?) → limits → the target's upstream │ is it down? → the fallback's
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import structlog

from proxy.access.authentication import Caller
from proxy.access.limits import Lease, Quota, RateLimits, Rule
from proxy.catalog import Catalog
from proxy.endpoints.answer import RoutedAnswer
from proxy.endpoints.endpoint import Endpoint
from proxy.endpoints.store import Endpoints
from proxy.errors import InvalidApiKey, ModelNotFound, PermissionDenied, ProxyError, UpstreamError
from proxy.serving.upstream import DEFAULT_TERMS, Answer, Terms, Upstream
from proxy.wire.openai import ChatRequest, StreamOptions

_DOWN = frozenset({"narrative_unavailable", "anthropic_unavailable"})
_USUAL_ANSWER_TOKENS = 512
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a name leads.

    Attributes:
        request, caller: as the upstream should have them.
        rule: the limit of all callers together.
        fallback: the name to try while the upstream is down.
    """

    name: str
    upstream: Upstream
    request: ChatRequest
    caller: Caller
    rule: Rule
    fallback: str | None


@dataclass(frozen=True, slots=True)
class Router:
    """Answers chat requests by whatever their model's name stands for; see `proxy.serving.upstream.Upstream`.

    Attributes:
        services: what answers, by the name of the service. Models of the catalog are `narrative`'s.
        usual: the limits of callers whose keys have none of their own.
        own_token: whether the proxy has a Narrative token of its own, for callers who bring none.
    """

    catalog: Catalog
    endpoints: Endpoints
    services: Mapping[str, Upstream]
    limits: RateLimits
    usual: Quota
    own_token: bool

    async def accept(self, request: ChatRequest, caller: Caller, terms: Terms = DEFAULT_TERMS) -> Answer:
        target = await self._target(request.model, request, caller)
        rule = Rule(f"caller:{caller.id or 'anyone'}", _first_of(caller.quota, self.usual))
        async with AsyncExitStack() as held:
            ticket = await self._enter([rule, target.rule], target, held)
            tickets, tried = [ticket], {target.name}
            while True:
                try:
                    asked = await _ask(target, terms, usage=any(ticket.counts_tokens for ticket in tickets))
                    break
                except ProxyError as error:
                    error.headers = {**ticket.headers, **error.headers}
                    other = await self._fallback(target, error, tried, request, caller)
                    if other is None:
                        raise
                log.warning("fallback", down=target.name, to=other.name)
                target = other
                tried.add(target.name)
                tickets.append(await self._enter([target.rule], target, held))
            held.pop_all()
            return RoutedAnswer(asked, tickets, request, served_by=target.name)

    async def _enter(self, rules: list[Rule], target: Target, held: AsyncExitStack) -> Lease:
        counted = any(rule.quota.tokens for rule in rules)
        tokens = _estimate(target.request) if counted else 0
        ticket = await self.limits.enter(rules, tokens=tokens, jobs=target.request.n or 1)
        held.push_async_callback(ticket.release)
        return ticket

    async def _fallback(
        self, target: Target, error: ProxyError, tried: set[str], request: ChatRequest, caller: Caller
    ) -> Target | None:
        """What to try instead of a target whose upstream is down; None when there is nothing, or this was another error."""
        if error.code not in _DOWN or target.fallback is None or target.fallback in tried:
            return None
        try:
            return await self._target(target.fallback, request, caller)
        except ProxyError as refusal:
            log.warning("no fallback", down=target.name, to=target.fallback, code=refusal.code)
            return None

    async def _target(self, name: str, request: ChatRequest, caller: Caller) -> Target:
        """Where a name leads for a caller. A caller who may not use it does not learn whether it exists.

        Raises:
            ModelNotFound, PermissionDenied.
        """
        card = self.catalog.by_name.get(name)
        if not caller.may_use({name, card.id, *card.names} if card else {name}):
            raise PermissionDenied(f"This API key has no access to the model `{name[:100]}`.", param="model")
        if card is None:
            endpoint = await self.endpoints.find(name) if caller.endpoints else None
            if endpoint is None:
                raise unknown_model(name, self.catalog)
            return self._endpoint_target(endpoint, request, caller)
        if caller.upstream_key is None and not self.own_token:
            raise PermissionDenied("This API key gives access to named endpoints only.", param="model")
        quota = Quota(requests=card.requests_per_minute, tokens=card.tokens_per_minute)
        request = request.model_copy(update={"model": name})
        return Target(name, self.services["narrative"], request, caller, Rule(f"model:{card.id}", quota), card.fallback)

    def _endpoint_target(self, endpoint: Endpoint, request: ChatRequest, caller: Caller) -> Target:
        key = self.endpoints.api_key(endpoint)
        if endpoint.data_plane_id is not None:
            caller.check_plane(endpoint.data_plane_id)
            caller = replace(caller, data_plane_id=endpoint.data_plane_id)
        return Target(
            endpoint.id,
            self.services[endpoint.service],
            endpoint.request_for(request),
            replace(caller, upstream_key=key),
            Rule(f"endpoint:{endpoint.id}", Quota(requests=endpoint.requests_per_minute)),
            endpoint.fallback,
        )


def unknown_model(name: str, catalog: Catalog) -> ModelNotFound:
    """The error for a name that stands for nothing here."""
    try:
        catalog.find(name)
    except ModelNotFound as error:
        return error
    raise AssertionError(name)


async def _ask(target: Target, terms: Terms, *, usage: bool) -> Answer:
    """Have a target's upstream accept its request, with the stream's usage where limits need it.

    Raises:
        UpstreamError: `endpoint_unauthorized`, the endpoint's own credential is not accepted: not the client's fault.
    """
    request = target.request
    if usage and request.stream:
        request = request.model_copy(update={"stream_options": StreamOptions(include_usage=True)})
    try:
        return await target.upstream.accept(request, target.caller, terms)
    except InvalidApiKey as error:
        if not target.rule.scope.startswith("endpoint:"):
            raise
        message = f"The credentials of endpoint `{target.name}` are not accepted by its service."
        raise UpstreamError(message, code="endpoint_unauthorized") from error


def _first_of(own: Quota, usual: Quota) -> Quota:
    """A key's own limits, and the usual ones where it has none."""
    return Quota(
        requests=own.requests or usual.requests, tokens=own.tokens or usual.tokens, jobs=own.jobs or usual.jobs
    )


def _estimate(request: ChatRequest) -> int:
    """Tokens that a request will use, before anyone knows: four characters a token, and the whole reply it allows."""
    reply = request.max_completion_tokens or request.max_tokens or _USUAL_ANSWER_TOKENS
    return len(request.model_dump_json(exclude_none=True, warnings=False)) // 4 + (request.n or 1) * reply
