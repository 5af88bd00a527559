"""Stored responses: one sealed record each, which only who knows its id, and presents the key that made it, can read.

A record lies under a hash of the response's id and is encrypted with a key made of the server's secret and the id, with the caller as
associated data. So the store without an id, or an id with another key, gives nothing. A record has these fields:

    data    the sealed JSON, a line each: the response object, the items of its input and, until it has ended, the request
    by      the replica that works on a background response
    used    makes the record live on when it is used
"""

import asyncio
import hmac
import re
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, Final

import structlog
from pydantic_core import from_json

from proxy.access.authentication import Caller
from proxy.api.http.requests import LARGE_BYTES, computed
from proxy.api.openai.responses.encode import ITEM_ID, input_item, without_echo
from proxy.api.openai.responses.items import Known
from proxy.errors import InvalidRequest, ResponseNotFound, StoreUnavailable
from proxy.inference.request import JsonObject
from proxy.schemas.values import json_bytes
from proxy.settings import ResponsesSettings
from proxy.storage import Store
from proxy.storage.cipher import NONCE_BYTES, Cipher, NoSecret, seal, unseal

_MAX_REFERRED: Final = 1_000
_MAX_ITEMS: Final = 100_000
"""Items that a request continues; its own are bounded by `server.max_body_values`."""
_SMALL: Final = 2_048
"""Bytes below which a record is stored as it is: compressing it would take longer than all else that is done to store it."""
_MANY: Final = 100

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """What is stored of a response.

    Attributes:
        id: the hexadecimal part of its id.
        response: the response object.
        input: the items of its request; None where the record would have been too large.
        request: the request and how it is recognized, of a background response that has not ended.
        by: the replica that works on it.
        sealed: the record as it is stored.
        size: bytes of it before it was compressed, or of the request; 0 where nobody counted them.
    """

    id: str
    response: JsonObject
    input: Sequence[JsonObject] | None = None
    request: JsonObject | None = None
    by: str = ""
    sealed: str = ""
    size: int = 0


def response_id(credential: str, place: str) -> str:
    """The hexadecimal part of a response's id: nobody without the client's credential can derive it from what is stored.

    Args:
        place: tells requests apart, and is the same for the repeats of one.
    """
    return hmac.digest(credential.encode("utf-8", "surrogatepass") or b"-", place.encode(), "sha256").hex()[:32]


class ResponseStore:
    """The store. Every call raises StoreUnavailable when it cannot be reached, except where a method says otherwise."""

    def __init__(self, store: Store, cipher: Cipher, settings: ResponsesSettings) -> None:
        self.replica = store.replica
        self._store, self._cipher, self._settings = store, cipher, settings
        self._secret: bytes | None = None
        self._opening = asyncio.Lock()
        self._broken = False

    async def open(self) -> None:
        """Derive the secret, in a thread, unless it is known: that takes a quarter of a second."""
        if self._secret is not None or self._broken:
            return
        async with self._opening:
            if self._secret is None and not self._broken:
                try:
                    self._secret = await asyncio.to_thread(self._cipher.secret, "responses")
                except NoSecret as error:
                    self._broken = True
                    log.error("responses cannot be stored: set PROXY_SECRET_KEY", error=str(error))

    @property
    def available(self) -> bool:
        """Whether responses are stored at the moment."""
        return self._settings.store_ttl_s > 0 and self._secret is not None and self._store.healthy

    # ------------------------------------------------------------ sealed texts

    def seal(self, caller: Caller, text: str) -> str:
        """A text that the client carries for the server; always sealed to the same. Empty where there is no secret."""
        if self._secret is None:
            return ""
        key, plain = hmac.digest(self._secret, b"carried", "sha256"), text.encode("utf-8", "surrogatepass")
        nonce = hmac.digest(key, caller.id.encode() + b"\0" + plain, "sha256")[:NONCE_BYTES]
        return seal(key, plain, caller.id.encode(), nonce)

    def unseal(self, caller: Caller, sealed: str) -> str | None:
        """The text; None for what was sealed elsewhere, for somebody else, or changed."""
        if self._secret is None:
            return None
        plain = unseal(hmac.digest(self._secret, b"carried", "sha256"), sealed, caller.id.encode())
        return None if plain is None else plain.decode("utf-8", "surrogatepass")

    # ------------------------------------------------------------ records

    async def get(self, id_: str, caller: Caller) -> StoredResponse | None:
        """A stored response by the hexadecimal part of its id; None when there is none that the caller may read."""
        await self.open()
        if self._secret is None or not self._settings.store_ttl_s:
            return None
        name = _name(id_)
        fields = await self._store.read(name)
        if fields:
            await self._store.put(name, "used", "", ttl_s=self._settings.store_ttl_s)
        sealed = fields.get("data", "")
        record = await self._unpacked(id_, caller, sealed) if sealed else None
        if record is None:
            return None
        (response, items, request), size = record
        return StoredResponse(id_, response, items, request, fields.get("by", ""), sealed, size)

    async def find(self, response: str, caller: Caller) -> StoredResponse:
        """A stored response by its whole id. Raises ResponseNotFound."""
        stored = await self.get(response.removeprefix("resp_"), caller) if response.startswith("resp_") else None
        if stored is None:
            raise ResponseNotFound(f"No response has the id {response[:100]!r}.", param="response_id")
        return stored

    async def put(self, stored: StoredResponse, caller: Caller, *, open_: bool = False) -> bool:
        """Store a response, whatever was stored under its id. False: the store cannot be reached.

        Args:
            open_: it has not ended, and this replica works on it.
        """
        if not self.available:
            return False
        name, ttl_s = _name(stored.id), self._settings.store_ttl_s
        try:
            if open_:
                await self._store.put(name, "by", self.replica, ttl_s=ttl_s)
            await self._store.put(name, "data", await self._sealed(stored, caller), ttl_s=ttl_s)
        except StoreUnavailable:
            return False
        return True

    async def replace(self, old: StoredResponse, new: StoredResponse, caller: Caller) -> bool:
        """Store a response in place of what was read, unless that has changed. Returns whether it was stored."""
        return await self._store.compare_and_set(_name(old.id), "data", old.sealed, await self._sealed(new, caller))

    async def take_over(self, stored: StoredResponse) -> bool:
        """Become the one who works on a background response, if whoever did was killed. Returns whether this replica now does."""
        if stored.by != self.replica and await self._store.alive(stored.by):
            return False
        return await self._store.compare_and_set(_name(stored.id), "by", stored.by, self.replica)

    async def remove(self, id_: str) -> None:
        """Forget a response."""
        await self._store.remove(_name(id_))

    async def note(self, name: str, value: str, ttl_s: float) -> None:
        """Remember a value for a while."""
        await self._store.put(f"response-note:{name}", "value", value, ttl_s=ttl_s)

    async def claim(self, name: str, value: str, ttl_s: float) -> str:
        """Remember a value for a while, unless one is remembered. Returns the one that then is. Atomic."""
        return await self._store.add(f"response-note:{name}", "value", value, ttl_s=ttl_s)

    async def noted(self, name: str) -> str | None:
        """What is remembered under a name."""
        return await self._store.get(f"response-note:{name}", "value")

    async def _sealed(self, stored: StoredResponse, caller: Caller) -> str:
        """The record; made in a thread where it is large."""
        size = max(stored.size, len(json_bytes(stored.response.get("output"))))
        return await computed(size, partial(self._pack, stored, caller))

    def _pack(self, stored: StoredResponse, caller: Caller) -> str:
        """The record; of one that is too large only the output, unless it is needed to end the response."""
        settings = self._settings
        response, items, request = map(json_bytes, (stored.response, stored.input, stored.request))
        for _ in range(3):
            text = b"\n".join((response, items, request))
            packed = text if len(text) < _SMALL else zlib.compress(text, 1)
            fits = len(packed) <= settings.max_record_bytes and len(text) <= settings.max_chain_bytes
            if fits or stored.request is not None:
                break
            if items == b"null":
                response = json_bytes(without_echo(stored.response))
            items = b"null"
        return seal(self._key(stored.id), packed, caller.id.encode())

    async def _unpacked(self, id_: str, caller: Caller, sealed: str) -> tuple[list[Any], int] | None:
        """The response, the items of its input and its request, and how many bytes they have; in a thread where these are many."""
        if len(sealed) < LARGE_BYTES:
            with suppress(OverflowError):  # 8 MiB of the same are a few KiB
                return self._unpack(id_, caller, sealed, LARGE_BYTES)
        return await asyncio.to_thread(self._unpack, id_, caller, sealed)

    def _unpack(self, id_: str, caller: Caller, sealed: str, most: int = 0) -> tuple[list[Any], int] | None:
        """Raises OverflowError: it has more bytes than `most`; 0 is no limit."""
        text = unseal(self._key(id_), sealed, caller.id.encode())
        if text is None:
            return None
        if not text.startswith(b"{"):
            inflater = zlib.decompressobj()
            text = inflater.decompress(text, most)
            if not inflater.eof:
                raise OverflowError
        # One after the other: each holds up every thread.
        return [from_json(part) for part in text.split(b"\n")], len(text)

    def _key(self, id_: str) -> bytes:
        return hmac.digest(self._secret or b"", b"record" + id_.encode("utf-8", "surrogatepass"), "sha256")

    # ------------------------------------------------------------ what requests continue and refer to

    async def known(self, previous: str | None, references: Sequence[str], caller: Caller) -> Known:
        """What a request's `previous_response_id` and item references stand for.

        Raises:
            InvalidRequest: `previous_response_not_found`, it cannot be continued; or it needs more than the settings allow.
        """
        history, size = await self._history(previous, caller) if previous is not None else ([], 0)
        items: dict[str, JsonObject] = {}
        by_response: dict[str, list[re.Match[str]]] = {}
        for parts in filter(None, map(ITEM_ID.match, dict.fromkeys(references))):
            by_response.setdefault(parts[1], []).append(parts)
        if len(by_response) > _MAX_REFERRED:
            raise InvalidRequest(f"`input` refers to more than {_MAX_REFERRED} responses.", param="input")
        for id_, wanted in by_response.items():  # one at a time in memory
            stored = await self.get(id_, caller)
            if stored is None:
                continue
            work = partial(_referred, stored, wanted)
            for reference, item, count in await computed(LARGE_BYTES if len(wanted) >= _MANY else stored.size, work):
                items[reference] = item
                size += count
            self._check(size, "input")
            await asyncio.sleep(0)  # a store in memory lets nobody else run
        return Known(history, items, size)

    async def _history(self, previous: str, caller: Caller) -> tuple[list[JsonObject], int]:
        """The items of a chain of responses, oldest first, and their size in bytes."""
        links: list[list[JsonObject]] = []
        link: str | None = previous
        size = count = 0
        while link is not None:
            stored = await self.get(link.removeprefix("resp_"), caller) if link.startswith("resp_") else None
            if stored is None:
                raise _no_previous(f"no stored response has the id {link[:100]!r}")
            if stored.response["status"] not in ("completed", "incomplete"):
                raise _no_previous(f"the response {link[:100]!r} is {stored.response['status']}, without output")
            if stored.input is None:
                raise _no_previous(f"the response {link[:100]!r} was too large, so that only its output was kept")
            links.append([*stored.input, *stored.response["output"]])
            size += stored.size
            count += len(links[-1])
            self._check(size, "previous_response_id", responses=len(links), items=count)
            link = stored.response["previous_response_id"]
            await asyncio.sleep(0)
        return [item for items in reversed(links) for item in items], size

    def _check(self, size: int, param: str, *, responses: int = 0, items: int = 0) -> None:
        settings = self._settings
        limits = (
            (items, _MAX_ITEMS, "items"),
            (responses, settings.max_chain, "responses (`responses.max_chain`)"),
            (size, settings.max_chain_bytes, "bytes (`responses.max_chain_bytes`)"),
        )
        for number, most, what in limits:
            if number > most:
                raise InvalidRequest(f"`{param}` leads to more than {most} {what}.", param=param)


def _referred(stored: StoredResponse, wanted: Sequence[re.Match[str]]) -> list[tuple[str, JsonObject, int]]:
    """The items of a response that ids name, and their sizes. A client's own id of an item cannot hold that of the response, which it
    did not know."""
    found = []
    for parts in wanted:
        items, index = (stored.input or ()) if parts[2] else stored.response["output"], int(parts[3])
        item = next(iter(items[index : index + 1]), None)
        if item is not None and parts[2]:
            item = input_item(stored.id, index, item)
        if item is not None and item["id"] == parts[0]:
            found.append((parts[0], item, len(json_bytes(item))))
    return found


def _name(id_: str) -> str:
    return f"response:{sha256(b'name' + id_.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


def _no_previous(why: str) -> InvalidRequest:
    param = "previous_response_id"
    return InvalidRequest(f"`{param}`: {why}.", param=param, code="previous_response_not_found")
