"""Who calls the Elastic face: clients with any of the proxy's keys, and the operator with the admin key."""

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.access.callers import Caller, Door
from proxy.errors import InvalidApiKey, PermissionDenied


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets callers in.

    Attributes:
        admin_key: creates and deletes endpoints, and may do all that clients may; None where there is none.
        loopback: the server listens on a loopback address, where clients may act as admins while there is no admin key.
        data_plane_id: where the admin's own jobs run.
    """

    door: Door
    admin_key: str | None
    loopback: bool
    data_plane_id: str | None

    async def caller(self, headers: Mapping[str, str]) -> Caller:
        """Whoever presents a known key, in any of the ways the official clients have.

        Raises:
            InvalidApiKey: no key, or not a known one.
            PermissionDenied: a token that is passed through to Narrative, and that nobody has checked.
        """
        if self._is_admin(headers):
            return Caller(None, self.data_plane_id, id="admin")
        refusal: InvalidApiKey | None = None
        for key in presented_keys(headers) or [""]:
            try:
                caller = await self.door.admit({**headers, "authorization": f"Bearer {key}"})
            except InvalidApiKey as error:
                refusal = error
                continue
            if not caller.endpoints:
                raise PermissionDenied("Inference endpoints need one of the proxy's own keys.")
            return caller
        raise refusal or InvalidApiKey("Incorrect API key provided.")

    async def check_admin(self, headers: Mapping[str, str]) -> None:
        """Raises InvalidApiKey or PermissionDenied when the caller may not create or delete endpoints."""
        if self._is_admin(headers):
            return
        await self.caller(headers)
        if self.admin_key is not None:
            raise PermissionDenied("Creating and deleting inference endpoints needs the admin key.")
        if not self.loopback:
            raise PermissionDenied(
                "Creating and deleting inference endpoints needs an admin key here: set PROXY_ADMIN_KEY."
            )

    def _is_admin(self, headers: Mapping[str, str]) -> bool:
        if self.admin_key is None:
            return False
        matches = [hmac.compare_digest(key.encode(), self.admin_key.encode()) for key in presented_keys(headers)]
        return any(matches)


def presented_keys(headers: Mapping[str, str]) -> list[str]:
    """What may be the key in `Authorization: ApiKey …`, `Bearer …` or `Basic …`; empty when there is none.

    `ApiKey` carries a key as it is, or base64 of an id and a key; `Basic` carries base64 of a name, which is ignored, and the key.
    """
    scheme, _, value = headers.get("authorization", "").partition(" ")
    value = value.strip()
    if not value:
        return []
    match scheme.lower():
        case "bearer":
            return [value]
        case "apikey":
            return [value, *_second_part(value)]
        case "basic":
            return _second_part(value)
        case _:
            return []


def _second_part(encoded: str) -> list[str]:
    try:
        _, colon, second = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return []
    return [second] if colon and second else []
