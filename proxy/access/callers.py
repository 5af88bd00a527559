"""Headers → the caller: which Narrative token and data plane its jobs run with and what it may use, or a 401.

Two ways to serve, decided by the settings once:

    shared token    the proxy has a Narrative token of its own; clients present one of the proxy's keys, or none on a loopback address
    pass-through    each client's bearer token is its own Narrative token; its data plane may come in the `OpenAI-Project` header

The proxy's keys are those of the settings, which may use everything, and those that `narrative-proxy keys` makes (`keys.py`).
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from proxy.access.keys import KEY_PREFIX, Key, Keys
from proxy.access.limits import NO_QUOTA, Quota
from proxy.errors import InvalidApiKey, InvalidRequest, PermissionDenied
from proxy.setting_types import is_uuid
from proxy.settings import is_loopback


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose job it is, and what it may use.

    Attributes:
        upstream_key: the credential its jobs run with; None is the proxy's own.
        data_plane_id: where its jobs run; None when nobody said so.
        id: the same for every request with the same key, and tells nothing of it; empty for everyone who was let in without a key.
        models: names of the models and endpoints it may use; None is all of them.
        bound_plane: the one data plane that its key may use; None is any.
        quota: its key's own limits.
        endpoints: whether it may use named endpoints, which run on the operator's credentials.
    """

    upstream_key: str | None
    data_plane_id: str | None
    id: str = ""
    models: frozenset[str] | None = None
    bound_plane: str | None = None
    quota: Quota = NO_QUOTA
    endpoints: bool = True

    def may_use(self, names: Iterable[str]) -> bool:
        """Whether its key allows a model that answers to these names."""
        return self.models is None or not self.models.isdisjoint(names)

    def may_use_endpoint(self, name: str) -> bool:
        """Whether its key allows a named endpoint."""
        return self.endpoints and self.may_use({name})

    def plane(self) -> str:
        """Where its jobs run.

        Raises:
            InvalidRequest: `missing_data_plane`, nobody said so.
        """
        if not self.data_plane_id:
            raise InvalidRequest(
                "No data plane is known: send its id, a uuid, in the `OpenAI-Project` header (the SDKs' `project` option).",
                param="OpenAI-Project",
                code="missing_data_plane",
            )
        return self.data_plane_id

    def check_plane(self, data_plane_id: str) -> None:
        """Raises PermissionDenied: its key is bound to another data plane."""
        if self.bound_plane is not None and self.bound_plane != data_plane_id:
            raise PermissionDenied("This API key has no access to the data plane of that endpoint.")


class Door(Protocol):
    """Lets callers in."""

    async def admit(self, headers: Mapping[str, str]) -> Caller:
        """The caller behind a request's headers (names in lower case).

        Raises:
            InvalidApiKey: no key, or not a known one.
            PermissionDenied: no key is needed, and the request comes from a page of elsewhere.
            Overloaded: the stored keys cannot be read.
        """


@dataclass(frozen=True, slots=True)
class SharedToken:
    """Jobs run with the proxy's own token.

    Attributes:
        keys: keys of the settings; they may use everything.
        stored: keys that were made.
        open: while there is no key of either sort, everyone is let in. For loopback addresses only.
        pages: whose pages may make use of that.
    """

    keys: tuple[str, ...]
    data_plane_id: str
    stored: Keys
    open: bool = False
    pages: "Pages | None" = None

    async def admit(self, headers: Mapping[str, str]) -> Caller:
        if self.open and not self.keys and not await self.stored.exist():
            if self.pages is not None:
                self.pages.check(headers)
            return Caller(None, self.data_plane_id)
        presented = bearer_token(headers)
        # Every key is compared, each in constant time: how long it takes tells nothing about them.
        matches = [hmac.compare_digest(presented.encode(), key.encode()) for key in self.keys]
        if any(matches):
            return Caller(None, self.data_plane_id, id=caller_id(presented))
        return holder(await self.stored.find(presented), self.data_plane_id)


@dataclass(frozen=True, slots=True)
class PassThrough:
    """Jobs run with the client's own Narrative token, which Narrative checks, not the proxy.

    Holders of the proxy's keys can use named endpoints, which have credentials of their own.

    Attributes:
        open: holders of any token can use them, too. For loopback addresses only.
        pages: whose pages may make use of that.
    """

    data_plane_id: str | None
    stored: Keys
    open: bool = False
    pages: "Pages | None" = None

    async def admit(self, headers: Mapping[str, str]) -> Caller:
        token = bearer_token(headers)
        if token.startswith(KEY_PREFIX):
            return holder(await self.stored.find(token), self.data_plane_id)
        wanted = headers.get("openai-project", "").strip()
        # Clients of OpenAI send the project of their environment, `proj_…`: that is no data plane.
        data_plane = wanted if is_uuid(wanted) else self.data_plane_id
        trusted = self.open and (self.pages is None or self.pages.include(headers))
        return Caller(token, data_plane, id=caller_id(token), endpoints=trusted)


@dataclass(frozen=True, slots=True)
class Pages:
    """Where no key is needed, any web page that a browser of this machine opens could call the server: only pages of this machine, and of
    origins that the settings name, may.

    Attributes:
        origins: as browsers send them, `https://example.com`.
    """

    origins: frozenset[str]

    def include(self, headers: Mapping[str, str]) -> bool:
        """Whether a request comes from no page, or from one that may call."""
        origin = headers.get("origin")
        return origin is None or origin in self.origins or _is_local(origin)

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises PermissionDenied: the request comes from a page of elsewhere."""
        if not self.include(headers):
            raise PermissionDenied(
                f"Pages of {headers['origin'][:100]!r} may not use this server while it asks for no key: "
                "set PROXY_API_KEYS, or name the origin in `server.cors_origins`."
            )


def _is_local(origin: str) -> bool:
    try:
        host = urlsplit(origin).hostname or ""
    except ValueError:
        return False
    return host.endswith(".localhost") or is_loopback(host)


def holder(key: Key | None, data_plane_id: str | None) -> Caller:
    """The caller who presented a key of ours.

    Args:
        key: None when it is not one that works; callers do not learn why.
        data_plane_id: the proxy's own, for keys that name none.

    Raises:
        InvalidApiKey: it does not work.
    """
    if key is None:
        raise InvalidApiKey("Incorrect API key provided.")
    return Caller(
        None,
        key.data_plane_id or data_plane_id,
        id=key.id,
        models=None if key.models is None else frozenset(key.models),
        bound_plane=key.data_plane_id,
        quota=key.quota,
    )


def caller_id(presented: str) -> str:
    """A stable name for whoever presents a key, from which the key cannot be told."""
    return f"caller_{hashlib.sha256(presented.encode()).hexdigest()[:16]}"


def bearer_token(headers: Mapping[str, str]) -> str:
    """The key of `Authorization: Bearer …`.

    Raises:
        InvalidApiKey: there is none, or one that no header could carry on.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise InvalidApiKey("No API key provided: send it as `Authorization: Bearer …`.")
    if not token.isascii() or not token.isprintable():
        raise InvalidApiKey("Incorrect API key provided.")
    return token
