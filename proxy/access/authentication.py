"""Headers → the caller: which Narrative token and data plane its jobs run with and what it may use, or a 401.

The proxy's keys are those of the settings, which may use everything, and those that `narrative-proxy keys` makes (`keys.py`). Where the
proxy has a Narrative token of its own, clients present one of these. Else each client's token is its own Narrative token; its data plane
may come in the `OpenAI-Project` header, and holders of the proxy's keys can use named endpoints, which have credentials of their own.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import repeat
from typing import Final, Literal
from urllib.parse import urlsplit

from proxy.access.keys import KEY_ID_PREFIX, KEY_PREFIX, Keys
from proxy.access.limits import NO_QUOTA, Quota, Rule
from proxy.errors import InvalidApiKey, InvalidRequest, Overloaded, PermissionDenied
from proxy.settings import Settings, is_uuid

ANONYMOUS: Final = "anonymous"
"""The id of every caller who was admitted without a key."""

_HOST: Final = re.compile(r"\A(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d+)?\Z")

Unauthenticated = Literal["always", "until_first_key", "never"]
"""Whether requests without a key are served."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose job it is, and what it may use.

    Attributes:
        upstream_key: the credential its jobs run with; None is the proxy's own.
        data_plane_id: where its jobs run; None when nobody named one.
        id: its identity for limits and idempotency: the same for every request with the same key, however that is presented. It reveals
            nothing of the key.
        models: names of the models and endpoints it may use; None is all of them.
        bound_plane: the one data plane that its key may use; None is any.
        quota: its key's own limits.
        endpoints: whether it may use named endpoints, which run on the operator's credentials.
    """

    upstream_key: str | None
    data_plane_id: str | None
    id: str = ANONYMOUS
    models: frozenset[str] | None = None
    bound_plane: str | None = None
    quota: Quota = NO_QUOTA
    endpoints: bool = True

    def may_use(self, names: Iterable[str]) -> bool:
        """Whether its key allows a model that answers to these names."""
        return self.models is None or not self.models.isdisjoint(names)

    def may_use_endpoint(self, name: str) -> bool:
        """Whether it may use named endpoints at all, and its key allows this one."""
        return self.endpoints and self.may_use({name})

    def plane(self) -> str:
        """Where its jobs run. Raises InvalidRequest `missing_data_plane`: nobody named one."""
        if not self.data_plane_id:
            raise InvalidRequest(
                "No data plane is known: send its id, a uuid, in the `OpenAI-Project` header (the SDKs' `project` option).",
                param="OpenAI-Project",
                code="missing_data_plane",
            )
        return self.data_plane_id

    def rule(self, usual: Quota) -> Rule:
        """The limits that hold for it: those of its key, and the usual ones where its key has none."""
        own = self.quota.model_dump(exclude_none=True)
        return Rule(f"caller:{self.id}", usual.model_copy(update=own) if own else usual)


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Tells who sent a request.

    Attributes:
        keys: keys of the settings; they may use everything.
        data_plane_id: where jobs run whose key or header names no other.
        stored: keys that were made.
        tokens: has Narrative check clients' own tokens, with which their jobs run; None where jobs run with the proxy's token.
        unauthenticated: whether requests without a key are served too.
        origins: the web pages that may send requests without a key, and requests for endpoints with a client's own token. None where others
            reach the server anyway: then no page is refused, and no own token opens an endpoint.
    """

    keys: tuple[str, ...]
    data_plane_id: str | None
    stored: Keys
    tokens: "TokenVerifier | None" = None
    unauthenticated: Unauthenticated = "never"
    origins: "AllowedOrigins | None" = None

    async def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """The caller behind a request's headers (names in lower case).

        Raises:
            InvalidApiKey: no key, or not a known one.
            PermissionDenied: no key is needed, and the request comes from a web page of another origin.
            StoreUnavailable: the stored keys cannot be read.
            ProxyError: a client's own token could not be checked.
        """
        presented = presented_keys(headers)
        made_here = False
        for key in presented:
            # Compared with all of them, each in constant time: how long it takes reveals nothing about them.
            if sum(map(hmac.compare_digest, map(str.encode, self.keys), repeat(key.encode()))):
                return Caller(None, self.data_plane_id, id=caller_id(key))
            if key.startswith(KEY_PREFIX):
                made_here = True
                if stored := await self.stored.find(key):
                    return Caller(
                        None,
                        stored.data_plane_id or self.data_plane_id,
                        id=stored.id,
                        models=None if stored.models is None else frozenset(stored.models),
                        bound_plane=stored.data_plane_id,
                        quota=stored.quota,
                    )
            elif self.tokens is not None and await self.tokens.accepts(key):
                wanted = headers.get("openai-project", "").strip()
                # Clients of OpenAI send the project of their environment, `proj_…`: that is no data plane.
                data_plane = wanted if is_uuid(wanted) else self.data_plane_id
                trusted = self.origins is not None and not self.origins.refusal(headers)
                return Caller(key, data_plane, id=caller_id(key), endpoints=trusted)
        anyone = self.unauthenticated == "always"
        if self.unauthenticated == "until_first_key":
            anyone = not self.keys and not await self.stored.exist()
        if made_here or not anyone:  # in the same words for a wrong, a revoked and an expired key
            raise InvalidApiKey(
                "Incorrect API key provided."
                if presented
                else "No API key provided: send it as `Authorization: Bearer …` or as `x-api-key`."
            )
        if self.origins is not None and (refusal := self.origins.refusal(headers)):
            raise PermissionDenied(refusal)
        return Caller(None, self.data_plane_id)

    async def current(self, caller: Caller) -> Caller | None:
        """A caller as its key stands now, for work that goes on without requests; None if the key is not valid any more.

        Narrative itself judges clients' own tokens. Raises StoreUnavailable: the stored keys cannot be read.
        """
        if caller.upstream_key is not None:
            return caller
        if caller.id.startswith(KEY_ID_PREFIX):
            key = next((key for key in await self.stored.all() if key.id == caller.id), None)
            if key is None or not key.works_at(time.time()):
                return None
            models = None if key.models is None else frozenset(key.models)
            return replace(caller, models=models, quota=key.quota)
        if caller.id == ANONYMOUS:
            return caller if self.unauthenticated != "never" else None
        return caller if caller.id in map(caller_id, self.keys) else None


def unauthenticated(settings: Settings, *, sandbox: bool = False) -> Unauthenticated:
    """Whether the settings let the server serve requests without a key.

    If they leave it open, it does with the embedded sandbox, and on a loopback address without a Redis: there the loss of the store would
    take the record of the first key along.
    """
    server = settings.server
    if server.allow_unauthenticated != "auto":
        return server.allow_unauthenticated
    private = is_loopback(server.host) and settings.state.url is None
    return "until_first_key" if sandbox or private else "never"


@dataclass(slots=True, eq=False)
class TokenVerifier:
    """Has Narrative check each client's token once in a while, before any work is done for it.

    Attributes:
        check: one cheap call with a token. Raises InvalidApiKey when Narrative does not accept it, other ProxyErrors when nobody knows.
        accepted_s, refused_s: how long a verdict holds, in seconds. A revoked token works that long at most.
        max_entries: verdicts kept of each kind.
        calls: bounds the checks under way at a time.
        max_pending: checks under way or waiting; more are refused.
    """

    check: Callable[[str], Awaitable[None]]
    accepted_s: float = 60.0
    refused_s: float = 10.0
    max_entries: int = 10_000
    calls: asyncio.Semaphore = field(default_factory=partial(asyncio.Semaphore, 32))
    max_pending: int = 1_000
    clock: Callable[[], float] = time.monotonic
    # When each verdict ends. Apart, so that a flood of bad tokens displaces no good one.
    _accepted: OrderedDict[bytes, float] = field(default_factory=OrderedDict, init=False)
    _refused: OrderedDict[bytes, float] = field(default_factory=OrderedDict, init=False)
    _pending: dict[bytes, asyncio.Task[bool]] = field(default_factory=dict, init=False)

    async def accepts(self, token: str) -> bool:
        """Whether Narrative accepts a token. Raises ProxyError: too many checks wait, or it could not be asked; nothing is remembered."""
        digest = hashlib.sha256(token.encode()).digest()
        for verdicts in (self._accepted, self._refused):
            if verdicts.get(digest, 0.0) > self.clock():
                return verdicts is self._accepted
        task = self._pending.get(digest)
        if task is None:
            if len(self._pending) >= self.max_pending:
                raise Overloaded("Too many API keys are being checked at the moment.", retry_after=1.0)
            task = self._pending[digest] = asyncio.create_task(self._ask(token, digest))
            # Every waiter may have left; asyncio would log the error as never retrieved.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _ask(self, token: str, digest: bytes) -> bool:
        verdicts, lives_s = self._accepted, self.accepted_s
        try:
            async with self.calls:
                await self.check(token)
        except InvalidApiKey:
            verdicts, lives_s = self._refused, self.refused_s
        finally:
            del self._pending[digest]
        self._accepted.pop(digest, None)
        self._refused.pop(digest, None)
        verdicts[digest] = self.clock() + lives_s
        if len(verdicts) > self.max_entries:
            verdicts.popitem(last=False)
        return verdicts is self._accepted


@dataclass(frozen=True, slots=True)
class AllowedOrigins:
    """Where no key is needed, any web page that a browser of this machine opens could call the server: only pages of this machine, and of
    origins that the settings name, may. A page could also have its own name resolve to this machine (DNS rebinding), and then sends no
    origin: only requests to names of this machine, and to names in the settings, are served.

    `origins` are as browsers send them, `https://example.com`; `hosts` as in a `Host` header, without the port.
    """

    origins: frozenset[str]
    hosts: frozenset[str] = frozenset()

    def refusal(self, headers: Mapping[str, str]) -> str:
        """Why a request is not served: it comes from a web page of another origin, or is for another host. Empty when it is served."""
        asks_no_key = "are rejected while this server asks for no key: set PROXY_API_KEYS, or name the"
        if "host" in headers:
            host = _HOST.match(headers["host"].lower())
            if host is None or not (host[1] in self.hosts or _is_local(f"//{host[1]}")):
                named = headers["host"][:100]
                return f"Requests for the host {named!r} {asks_no_key} host in `server.allowed_hosts`."
        origin = headers.get("origin")
        if origin is None or origin in self.origins or _is_local(origin):
            return ""
        return f"Cross-origin requests from {origin[:100]!r} {asks_no_key} origin in `server.cors_origins`."


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@lru_cache(maxsize=64)
def _is_local(origin: str) -> bool:
    try:
        host = urlsplit(origin).hostname or ""
    except ValueError:
        return False
    return host.endswith(".localhost") or is_loopback(host)


def caller_id(key: str) -> str:
    """A stable identity for the holder of a key, which does not reveal the key."""
    return f"caller_{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def presented_keys(headers: Mapping[str, str]) -> list[str]:
    """What may be the key of a request, likeliest first; empty when there is none.

    `Authorization` has `Bearer` and the key, `ApiKey` and base64 of an id and the key or the key itself, or `Basic` and base64 of a name
    and the key. Where it has none, `x-api-key` and `api-key` are read.
    """
    scheme, _, value = headers.get("authorization", "").partition(" ")
    value, scheme = value.strip(), scheme.lower()
    found = [value] if scheme in ("apikey", "bearer") else []
    if scheme in ("apikey", "basic"):
        with suppress(ValueError):
            found.insert(0, base64.b64decode(value, validate=True).decode().partition(":")[2])
    keys = list(filter(_can_be_key, found))
    for name in ("x-api-key", "api-key"):
        if not keys and _can_be_key(other := headers.get(name, "").strip()):
            keys = [other]
    return keys


def _can_be_key(text: str) -> bool:
    """Whether an HTTP header could carry it on."""
    return bool(text) and text.isascii() and text.isprintable()
