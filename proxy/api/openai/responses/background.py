"""Background responses: their requests are stored, so that whichever replica is asked for a response finishes it if another was killed.

    POST      the request is stored as queued, then run by a task of this replica; answered once its job is submitted, or after a second
    GET       what is stored; if the replica that worked on it was killed, this one goes on, from the submissions that are recorded
    cancel    the status is replaced at once, and what the task finds later is dropped

A record that has not ended is replaced by compare-and-set, so a response ends once.
"""

import asyncio
import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Final
from uuid import uuid4

import structlog

from proxy.access.authentication import Caller
from proxy.api.http.requests import ApiServices, canonical_digest, computed, request_digest, validated
from proxy.api.openai.responses.decode import Decoding, ResponseReply, decode
from proxy.api.openai.responses.encode import FINAL, failed, finished, response_object
from proxy.api.openai.responses.items import references
from proxy.api.openai.responses.store import ResponseStore, StoredResponse, response_id
from proxy.api.openai.responses.types import ResponsesRequest
from proxy.errors import IdempotencyMismatch, InternalError, Overloaded, ProxyError, ResponseNotFound
from proxy.inference.idempotency import Terms
from proxy.inference.request import JsonObject, Request

API: Final = "responses"
"""Its name in the digests of equal requests."""
_REFUSED: Final = "refused "
_ANSWER_WITHIN_S: Final = 0.8
_POLL_S: Final = 0.5
"""Seconds between reads of a response that another replica works on."""
_LONGEST_PAUSE_S: Final = 10.0
_WRITE_TRIES: Final = 60

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DecodedRequest:
    """A decoded request, its body as it came (`raw`), and the digest of the body, which is the same for equal requests."""

    request: Request
    reply: ResponseReply
    raw: JsonObject
    digest: str


class Background:
    """The background responses that this replica works on, and how all are decoded and stored; `request.state.responses`.

    Owns their tasks until `aclose`.
    """

    def __init__(self, api: ApiServices, store: ResponseStore) -> None:
        self.api, self.store = api, store
        self._responses, self._state = api.settings.responses, api.settings.state
        self._deadline_s = api.settings.jobs.deadline_s
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def aclose(self) -> None:
        """Stop working. What has not ended is finished by another replica, if there is one."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------ decoding

    async def decoded(self, raw: JsonObject, size: int, caller: Caller, *, stored: bool = False) -> DecodedRequest:
        """The request of a body of `size` bytes, with what it continues and refers to. Raises ProxyError: it is wrong, or cannot be read.

        Args:
            stored: it is that of a response which is stored already.
        """
        await self.store.open()
        body = await computed(size, partial(validated, ResponsesRequest, raw))
        known = await self.store.known(body.previous_response_id, references(body), caller)
        using = Decoding(self.api.rules, partial(self.store.unseal, caller), stored or self.store.available)

        def work() -> DecodedRequest:
            return DecodedRequest(*decode(body, raw, size, using, known), raw, request_digest(raw))

        return await computed(size + known.bytes, work)

    async def stored(self, id_: str, response: JsonObject, asked: DecodedRequest, caller: Caller) -> JsonObject:
        """Store a whole response, `id_` being the hexadecimal part of its id, if its request wants that. Returns it as it is to be sent."""
        if not asked.reply.store:
            return response
        record = StoredResponse(id_, response, asked.reply.input, size=asked.request.body_bytes)
        return response if await self.store.put(record, caller) else {**response, "store": False}

    # ------------------------------------------------------------ requests

    async def start(self, asked: DecodedRequest, caller: Caller, terms: Terms, credential: str) -> StoredResponse:
        """Begin to work on a request, or find what an equal one led to. `credential`: as of `response_id`.

        Raises:
            IdempotencyMismatch: its key was used with another body.
            Overloaded: too many are worked on, or they cannot be stored.
            ProxyError: the request is refused.
        """
        equal = canonical_digest([terms.client, caller.id, caller.data_plane_id, asked.digest])
        if terms.key is not None:
            nonce = canonical_digest([terms.client, caller.id, caller.data_plane_id, terms.key])
            ttl_s = terms.derived_ttl_s or self._state.idempotency_ttl_s
            if await self.store.claim(nonce, asked.digest, ttl_s) != asked.digest:
                message = "This idempotency key was used with another request body."
                raise IdempotencyMismatch(message, param="Idempotency-Key")
            repeats = True
        else:
            # A request that failed before it was answered may have left a job: its repeat takes that up, with or without a mark.
            noted = await self.store.noted(equal) or ""
            refused = noted.startswith(_REFUSED)
            nonce = noted.removeprefix(_REFUSED) if terms.is_retry or refused else ""
            repeats = bool(nonce) and not refused
            nonce = nonce or str(uuid4())
        id_ = response_id(credential, f"background:{nonce}")
        if repeats and (found := await self.store.get(id_, caller)) is not None:
            return await self.revived(found, caller)
        if terms.key is None:
            await self.store.note(equal, nonce, self._state.adopt_ttl_s)
        if len(self._tasks) >= self._responses.max_background:
            raise Overloaded("Too many background responses are worked on; try again later.", retry_after=2.0)
        response = response_object(id_, int(time.time()), asked.reply, "queued")
        kept = {"body": asked.raw, "bytes": asked.request.body_bytes, "nonce": nonce, "client": terms.client}
        stored = StoredResponse(id_, response, asked.reply.input, kept, size=asked.request.body_bytes)
        if not await self.store.put(stored, caller, open_=True):
            raise Overloaded("Background responses cannot be stored now.", code="state_unavailable", retry_after=1.0)
        submitted = self._spawn(stored, asked, caller, refusable=True)
        await asyncio.wait({submitted}, timeout=_ANSWER_WITHIN_S)
        if not submitted.done():
            submitted.set_result(None)  # from now on the response tells what becomes of it
        elif (error := submitted.exception()) is not None:
            await self.store.remove(id_)
            await self.store.note(equal, f"{_REFUSED}{nonce}", self._state.adopt_ttl_s)
            raise error
        return stored

    async def revived(self, stored: StoredResponse, caller: Caller) -> StoredResponse:
        """What is stored, as clients see it; this replica goes on with a response whose replica was killed."""
        if stored.response["status"] in FINAL:
            return stored
        if stored.request is not None and stored.id not in self._tasks and await self.store.take_over(stored):
            log.info("a background response is taken over")
            self._spawn(stored, None, caller, refusable=False)
        return replace(stored, response={**stored.response, "status": "in_progress"})

    async def ended(self, stored: StoredResponse, caller: Caller, timeout_s: float) -> JsonObject | None:
        """The response once it has ended; None if it has not after some seconds (0: no limit). Raises ResponseNotFound: it was deleted."""
        until = time.monotonic() + (timeout_s or math.inf)
        while True:
            left = max(until - time.monotonic(), 0.0)
            if task := self._tasks.get(stored.id):
                await asyncio.wait({task}, timeout=left if timeout_s else None)
            else:
                await asyncio.sleep(min(left, _POLL_S))
            found = await self.store.get(stored.id, caller)
            if found is None:
                raise ResponseNotFound("The response was deleted.", param="response_id")
            if found.response["status"] in FINAL:
                return found.response
            await self.revived(found, caller)
            if time.monotonic() >= until:
                return None

    async def cancel(self, stored: StoredResponse, caller: Caller) -> tuple[JsonObject, bool]:
        """The response, cancelled unless it has ended; and whether this cancelled it."""
        while stored.response["status"] not in FINAL:
            response = {**stored.response, "status": "cancelled", "completed_at": int(time.time())}
            if await self.store.replace(stored, replace(stored, response=response, request=None), caller):
                if task := self._tasks.get(stored.id):
                    task.cancel()
                return response, True
            stored = await self.store.find(stored.response["id"], caller)
        return stored.response, False

    # ------------------------------------------------------------ work

    def _spawn(
        self, stored: StoredResponse, asked: DecodedRequest | None, caller: Caller, *, refusable: bool
    ) -> asyncio.Future[None]:
        """Work on a response in a task of its own. What is returned is done once it cannot be refused any more, or has that error.

        Args:
            asked: None where another replica decoded the request.
            refusable: the client has not been answered yet.
        """
        submitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not refusable:
            submitted.set_result(None)
        work = asyncio.create_task(self._work(stored, asked, caller, submitted))
        self._tasks[stored.id] = work

        def ended(_: object) -> None:
            if self._tasks.get(stored.id) is not work:
                return
            del self._tasks[stored.id]
            if not work.cancelled() and (error := work.exception()) is not None:
                log.error("background response failed", exc_info=error)
                failure = InternalError("The server had an error while answering.")
                self._tasks[stored.id] = asyncio.create_task(
                    self._finish(stored, failed(stored.response, failure), caller)
                )
                self._tasks[stored.id].add_done_callback(lambda _: self._tasks.pop(stored.id, None))

        work.add_done_callback(ended)
        return submitted

    async def _work(
        self, stored: StoredResponse, asked: DecodedRequest | None, caller: Caller, submitted: asyncio.Future[None]
    ) -> None:
        try:
            response = await self._answered(stored, asked, caller, submitted)
        except ProxyError as error:
            if not submitted.done():
                submitted.set_exception(error)
                return
            log.warning("background response failed", code=error.code, job=error.job_id)
            response = failed(stored.response, error)
        await self._finish(stored, response, caller)

    async def _answered(
        self, stored: StoredResponse, asked: DecodedRequest | None, caller: Caller, submitted: asyncio.Future[None]
    ) -> JsonObject:
        """The response of a request. What costs nothing to repeat is repeated until the deadline."""
        request = stored.request or {}
        # As long as the response is stored, whoever takes it over finds its job.
        ttl_s = max(self._responses.store_ttl_s, self._state.adopt_ttl_s)
        terms = Terms(client=request["client"], key=f"background:{request['nonce']}", derived_ttl_s=ttl_s)
        until = time.monotonic() + self._deadline_s
        while True:
            try:
                asked = asked or await self.decoded(request["body"], request["bytes"], caller, stored=True)
                run = await self.api.backend.start(asked.request, caller, terms, api=API, body=asked.digest)
                if not submitted.done():
                    submitted.set_result(None)
                delivered = False
                try:
                    result = await run.result()
                    delivered = True
                finally:
                    run.close(delivered=delivered)
                seal = partial(self.store.seal, caller)
                whole = finished(stored.id, result, asked.reply, seal, int(time.time()))
                return {**whole, "created_at": stored.response["created_at"]}
            except ProxyError as error:
                pause = error.retry_after
                if not submitted.done() or pause is None or time.monotonic() + pause >= until:
                    raise
                await asyncio.sleep(min(pause, _LONGEST_PAUSE_S))

    async def _finish(self, stored: StoredResponse, response: JsonObject, caller: Caller) -> None:
        """Store how a response ended, unless it was cancelled or deleted meanwhile."""
        for _ in range(_WRITE_TRIES):
            try:
                found = await self.store.get(stored.id, caller)
                if found is None or found.response["status"] in FINAL:
                    return
                if await self.store.replace(found, replace(found, response=response, request=None), caller):
                    return
            except Overloaded:
                await asyncio.sleep(1.0)
        log.error("a background response could not be stored")
