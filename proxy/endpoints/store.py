"""Where named endpoints are kept: durably, with their credentials encrypted."""

import asyncio
from contextlib import suppress

import structlog

from proxy.endpoints.cipher import CannotDecrypt, Cipher, NoSecret
from proxy.endpoints.endpoint import Endpoint
from proxy.errors import InternalError, Overloaded
from proxy.storage import Records

_RECORD = "endpoints"
log = structlog.get_logger(__name__)


class Endpoints:
    """Endpoints by id. Every call raises StoreUnavailable when the store cannot be reached."""

    def __init__(self, records: Records, cipher: Cipher) -> None:
        self._records = records
        self._cipher = cipher

    async def add(self, endpoint: Endpoint, api_key: str | None) -> bool:
        """Store a new endpoint with its credential; False, and nothing stored, when there is one of that id."""
        try:
            sealed = None if api_key is None else await asyncio.to_thread(self._cipher.encrypt, api_key)
        except NoSecret as error:
            raise _no_secret(error) from error
        stored = endpoint.model_copy(update={"sealed_key": sealed}).model_dump_json(exclude_none=True)
        return await self._records.compare_and_set(_RECORD, endpoint.id, None, stored)

    async def find(self, name: str) -> Endpoint | None:
        """The endpoint of that id; its credential can then be decrypted without delay."""
        stored = await self._records.get(_RECORD, name)
        endpoint = None if stored is None else Endpoint.model_validate_json(stored)
        if endpoint and endpoint.sealed_key and not self._cipher.is_quick(endpoint.sealed_key):
            with suppress(NoSecret, CannotDecrypt):  # `api_key` tells those who need it
                await asyncio.to_thread(self._cipher.decrypt, endpoint.sealed_key)
        return endpoint

    async def all(self) -> list[Endpoint]:
        """All of them, in the order of their ids."""
        return [Endpoint.model_validate_json(stored) for stored in (await self._records.read(_RECORD)).values()]

    async def remove(self, name: str) -> bool:
        return await self._records.remove(_RECORD, name)

    def api_key(self, endpoint: Endpoint) -> str | None:
        """An endpoint's credential, None when it runs on the proxy's own.

        Raises:
            InternalError: it was stored under another PROXY_SECRET_KEY.
        """
        if endpoint.sealed_key is None:
            return None
        try:
            return self._cipher.decrypt(endpoint.sealed_key)
        except NoSecret as error:
            raise _no_secret(error) from error
        except CannotDecrypt:
            raise InternalError(
                f"The credentials of endpoint `{endpoint.id}` cannot be read: they were stored under another PROXY_SECRET_KEY. "
                "Set that one, or delete the endpoint and create it again.",
            ) from None


def _no_secret(error: NoSecret) -> Overloaded:
    log.error("no secret key", error=str(error))
    return Overloaded(
        "Credentials can be neither stored nor read: set PROXY_SECRET_KEY, or make the folder writable.",
        code="state_unavailable",
    )
