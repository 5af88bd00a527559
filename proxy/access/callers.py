"""Headers → the caller: which Narrative token and data plane its jobs run with, or a 401.

Two ways to serve, decided by the settings once:

    shared token    the proxy has a Narrative token of its own; clients present one of the proxy's keys, or none on a loopback address
    pass-through    each client's bearer token is its own Narrative token; its data plane may come in the `OpenAI-Project` header
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from proxy.errors import InvalidApiKey, InvalidRequest


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose job it is.

    Attributes:
        narrative_key: the token its jobs run with; None is the proxy's own.
        data_plane_id: where its jobs run.
    """

    narrative_key: str | None
    data_plane_id: str


class Door(Protocol):
    """Lets callers in."""

    def admit(self, headers: Mapping[str, str]) -> None:
        """Check the key alone. Raises InvalidApiKey."""

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """The caller behind a request's headers (names in lower case).

        Raises:
            InvalidApiKey: no key, or not a known one.
            InvalidRequest: no data plane is known.
        """


@dataclass(frozen=True, slots=True)
class SharedToken:
    """Jobs run with the proxy's own token. Without keys everyone is let in: the server then listens on a loopback address only."""

    keys: tuple[str, ...]
    data_plane_id: str

    def admit(self, headers: Mapping[str, str]) -> None:
        if not self.keys:
            return
        presented = bearer_token(headers).encode()
        # Every key is compared, each in constant time: how long it takes tells nothing about them.
        matches = [hmac.compare_digest(presented, key.encode()) for key in self.keys]
        if not any(matches):
            raise InvalidApiKey("Incorrect API key provided.")

    def caller(self, headers: Mapping[str, str]) -> Caller:
        self.admit(headers)
        return Caller(None, self.data_plane_id)


@dataclass(frozen=True, slots=True)
class PassThrough:
    """Jobs run with the client's own Narrative token."""

    data_plane_id: str | None

    def admit(self, headers: Mapping[str, str]) -> None:
        bearer_token(headers)

    def caller(self, headers: Mapping[str, str]) -> Caller:
        token = bearer_token(headers)
        data_plane = headers.get("openai-project", "").strip() or self.data_plane_id
        if data_plane is None:
            raise InvalidRequest(
                "No data plane is known: send its id in the `OpenAI-Project` header (the SDKs' `project` option).",
                param="OpenAI-Project",
                code="missing_data_plane",
            )
        return Caller(token, data_plane)


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
