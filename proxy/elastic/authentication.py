"""Who calls the Elastic API: clients with any of the proxy's keys, and the operator with the admin key."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.access.authentication import Authenticator, Caller, presented_keys
from proxy.errors import PermissionDenied


@dataclass(frozen=True, slots=True)
class ElasticAuthenticator:
    """Tells who sent a request.

    Attributes:
        admin_key: creates and deletes endpoints, and may do all that clients may; None where there is none.
        loopback: the server listens on a loopback address, where clients may act as admins while there is no admin key.
        data_plane_id: where the admin's own jobs run.
    """

    authenticator: Authenticator
    admin_key: str | None
    loopback: bool
    data_plane_id: str | None

    async def caller(self, headers: Mapping[str, str]) -> Caller:
        """The caller behind a request's headers.

        Raises:
            InvalidApiKey: no key, or not a known one.
            PermissionDenied: its token is passed through to Narrative, and gives no access to endpoints.
        """
        if self._is_admin(headers):
            return Caller(None, self.data_plane_id, id="admin")
        caller = await self.authenticator.authenticate(headers)
        if not caller.endpoints:
            raise PermissionDenied("Inference endpoints need one of the proxy's own keys.")
        return caller

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
