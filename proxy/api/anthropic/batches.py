"""Routes of message batches, and how their lines are read and written. Source: contract `openai-batches.md`, last section.

Requests arrive inline. They are cut out of the body while it arrives and become the lines of a file, so that a large body is never parsed
as a whole; all of them are checked before the batch exists.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from secrets import token_hex
from typing import Any, Final

import orjson
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.access.authentication import Caller
from proxy.api.anthropic.encode import error_out, message_body
from proxy.api.anthropic.routes import PAGE, decode_body, error_response, find_card, for_model, rfc3339
from proxy.api.http.batches import asked, enter, streamed
from proxy.api.http.middleware import ApiRoute
from proxy.api.http.requests import ApiServices, computed, page_of, parse_object
from proxy.api.http.responses import json_line, json_response
from proxy.batches.engine import NewBatch
from proxy.batches.lines import MAX_ID, Line, LineRequest
from proxy.batches.records import Batch
from proxy.errors import BatchConflict, FileNotFound, InvalidRequest, ProxyError, RequestTooLarge
from proxy.inference.request import JsonObject
from proxy.inference.result import Result

MESSAGES: Final = "/v1/messages"
_PATH: Final = "/v1/messages/batches"
_APART: Final = ":messages"
"""Keeps OpenAI's API from listing message batches and their files."""
_MAX_SKELETON: Final = 1 << 20
_MAX_TOKENS: Final = 4_000_000
"""Strings and brackets of a body; finding one takes less than a microsecond."""
_QUOTE, _BRACE = b'"{'
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["{}\[\]]', re.DOTALL)
_STRING_END: Final = re.compile(rb'(?:[^"\\]++|\\.)*+"', re.DOTALL)


def message_batches_routes() -> list[Route]:
    """All of them; they must be registered before those of messages."""
    calls: list[tuple[str, Callable[[Request], Any], str]] = [
        ("", create, "POST"),
        ("", list_batches, "GET"),
        ("/{id}", retrieve, "GET"),
        ("/{id}", delete, "DELETE"),
        ("/{id}/cancel", cancel, "POST"),
        ("/{id}/results", results, "GET"),
    ]
    return [
        ApiRoute(f"{_PATH}{path}{slash}", handler, method, error_response)
        for path, handler, method in calls
        for slash in ("", "/")
    ]


async def create(request: Request) -> Response:
    """`POST /v1/messages/batches`: refused as a whole if one of its requests has no name of its own, or is no object."""
    batches, owner, caller = await enter(request, _APART)
    settings = request.state.api.settings
    if request.headers.get("content-encoding", "identity") != "identity":
        raise InvalidRequest("The body of a batch must not be compressed.", param="Content-Encoding")
    splitter, digest, seen = RequestSplitter(settings.server.max_body_bytes), hashlib.sha256(), set[str]()
    async with batches.files.upload(owner, settings.batches.file_ttl_s) as writer:
        async for chunk in request.stream():
            digest.update(chunk)
            for text in await asyncio.to_thread(splitter.feed, chunk) if chunk else ():
                path = f"requests[{len(seen)}]"
                if len(seen) >= settings.batches.max_lines:
                    message = f"`requests` has more than {settings.batches.max_lines} requests."
                    raise RequestTooLarge(message, param="requests", code="too_many_tasks")
                work = partial(_checked, text, path, seen, settings.server.max_body_values)
                await writer.write(await computed(len(text), work))
        if splitter.finish() != len(seen) or not seen:
            raise InvalidRequest("Invalid `requests`: expected a list of objects, at least one.", param="requests")
        made = asked(request, owner, caller, {"body": digest.hexdigest()})
        batch = await batches.repeated(made)
        if batch is None:
            file = await writer.finish("requests.jsonl")
            batch = await batches.create(NewBatch("msgbatch_", MESSAGES, file, total=len(seen)), made)
    return json_response(batch_out(batch))


def _checked(text: bytes, path: str, seen: set[str], max_values: int) -> bytes:
    """The line of a request. Raises InvalidRequest."""
    value = parse_object(text, max_values)
    custom_id, params = value.get("custom_id"), value.get("params")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID:
        expected = f"expected a text of 1 to {MAX_ID} characters"
        raise InvalidRequest(f"Invalid `{path}.custom_id`: {expected}.", param=f"{path}.custom_id")
    if custom_id in seen:
        message = f"Invalid `{path}.custom_id`: another request has it too; they must differ."
        raise InvalidRequest(message, param=f"{path}.custom_id")
    if not isinstance(params, dict):
        raise InvalidRequest(f"Invalid `{path}.params`: expected an object.", param=f"{path}.params")
    seen.add(custom_id)
    line = {"custom_id": custom_id, "method": "POST", "url": MESSAGES, "body": params}
    try:
        return orjson.dumps(line) + b"\n"
    except TypeError:  # integers of more than 64 bits
        return json.dumps(line).encode() + b"\n"


async def list_batches(request: Request) -> Response:
    """`GET /v1/messages/batches`: one's own batches, newest first, in pages."""
    batches, owner, _ = await enter(request, _APART)
    found = await batches.records.all(owner)
    return json_response(page_of(request, [batch_out(batch) for batch in found], *PAGE))


async def retrieve(request: Request) -> Response:
    """`GET /v1/messages/batches/{id}`: one read."""
    batches, owner, _ = await enter(request, _APART)
    return json_response(batch_out(await batches.records.find(owner, request.path_params["id"])))


async def cancel(request: Request) -> Response:
    """`POST …/cancel`: no more requests are begun; those with a job are awaited."""
    batches, owner, _ = await enter(request, _APART)
    return json_response(batch_out(await batches.cancel(owner, request.path_params["id"])))


async def delete(request: Request) -> Response:
    """`DELETE /v1/messages/batches/{id}`: a batch that has ended, with its results."""
    batches, owner, _ = await enter(request, _APART)
    batch = await batches.records.find(owner, request.path_params["id"])
    if not batch.ended:
        raise BatchConflict("The batch cannot be deleted before it has ended: cancel it.", param="batch_id")
    for id_ in filter(None, (batch.input_file_id, batch.output_file_id)):
        try:
            await batches.files.remove(owner, await batches.files.find(owner, id_))
        except FileNotFound:
            continue
    await batches.records.remove(batch)
    return json_response({"id": batch.id, "type": "message_batch_deleted"})


async def results(request: Request) -> Response:
    """`GET …/results`: a line of JSON for each request, once the batch has ended."""
    batches, owner, _ = await enter(request, _APART)
    batch = await batches.records.find(owner, request.path_params["id"])
    if batch.output_file_id is None:
        raise FileNotFound("The batch has no results yet." if not batch.ended else "The batch has no results.")
    file = await batches.files.find(owner, batch.output_file_id)
    return await streamed(batches.files.pieces(file.id, file.pieces), "application/x-jsonl", file.size)


def batch_out(batch: Batch) -> JsonObject:
    """The batch object."""
    left = batch.total - batch.completed - batch.failed
    counts = {"processing": batch.total, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    if batch.ended:
        kind = {"cancelled": "canceled", "expired": "expired"}.get(batch.status, "errored")
        counts |= {"processing": 0, "succeeded": batch.completed, "errored": batch.failed}
        counts[kind] += left
    ended = batch.completed_at or batch.cancelled_at or batch.expired_at or batch.failed_at
    processing = "canceling" if batch.cancelling_at else "in_progress"
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if batch.ended else processing,
        "request_counts": counts,
        "created_at": _time(int(batch.created_at)),
        "ended_at": _time(ended),
        "expires_at": _time(batch.expires_at),
        "cancel_initiated_at": _time(batch.cancelling_at),
        "archived_at": None,
        "results_url": f"{_PATH}/{batch.id}/results" if batch.output_file_id else None,
    }


def _time(seconds: int | None) -> str | None:
    return None if seconds is None else rfc3339(datetime.fromtimestamp(seconds, UTC))


# ---------------------------------------------------------------- lines


@dataclass(frozen=True, slots=True)
class MessagesLines:
    """Lines for `/v1/messages`; see `LineApi`."""

    api: ApiServices
    one_file = True

    async def decode(self, body: JsonObject, size: int, caller: Caller, line: Line) -> LineRequest:
        """See `LineApi`."""
        if body.get("stream") is True:
            raise InvalidRequest("Invalid `stream`: expected false, in a batch.", param="stream")
        work = partial(decode_body, body, size, rules=self.api.rules)
        decoded, reply, _ = await computed(size, work)
        found = await find_card(decoded.model, self.api, caller)

        async def answer(result: Result) -> bytes:
            return message_body(reply, result)

        return LineRequest(for_model(decoded, found, {}), answer)

    def answered(self, line: Line, body: bytes) -> bytes:
        """See `LineApi`."""
        return _row(line, {"type": "succeeded", "message": orjson.Fragment(body)})

    def failed(self, line: Line, error: ProxyError) -> bytes:
        """See `LineApi`."""
        return _row(line, {"type": "errored", "error": error_out(error, f"req_{line.id.hex}")})

    def unsent(self, line: Line, *, cancelled: bool) -> bytes | None:
        """See `LineApi`."""
        return _row(line, {"type": "canceled" if cancelled else "expired"})


def _row(line: Line, result: JsonObject) -> bytes:
    return json_line({"custom_id": line.custom_id, "result": result})


# ---------------------------------------------------------------- cutting requests out of a body


@dataclass(slots=True)
class RequestSplitter:
    """Cuts the objects in the list `requests` out of a JSON object while it arrives, without parsing them.

    What is left, with a random text in place of each, is small: it is parsed at the end and shows whether they were in that list.
    """

    max_bytes: int
    _mark: str = field(default_factory=lambda: token_hex(8))
    _skeleton: bytearray = field(default_factory=bytearray)
    _element: bytearray = field(default_factory=bytearray)
    _depth: int = 0
    _cut: int = 0
    _tokens: int = 0
    _in_string: bool = False
    _escaped: bool = False
    _inside: bool = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The objects that end in a chunk. Raises RequestTooLarge."""
        found: list[bytes] = []
        position, start = self._after_string(chunk), 0
        for match in _TOKEN.finditer(chunk, position):
            sign = chunk[match.start()]
            self._tokens += 1
            if sign == _QUOTE:
                if match.end() == match.start() + 1:  # it does not end in this chunk
                    self._in_string = True
                    self._note_escape(chunk[match.end() :])
                    break
            elif sign in b"{[":
                if self._depth == 2 and sign == _BRACE:
                    self._skeleton += chunk[start : match.start()]
                    start, self._inside = match.start(), True
                self._depth += 1
            else:
                self._depth -= 1
                if self._inside and self._depth == 2:
                    found.append(bytes(self._element) + chunk[start : match.end()])
                    self._element.clear()
                    self._skeleton += f'"{self._mark}"'.encode()
                    start, self._inside, self._cut = match.end(), False, self._cut + 1
        (self._element if self._inside else self._skeleton).extend(chunk[start:])
        if len(self._element) > self.max_bytes or len(self._skeleton) > _MAX_SKELETON:
            raise RequestTooLarge(f"A request of the batch has more than {self.max_bytes} bytes.", param="requests")
        if self._tokens > _MAX_TOKENS:
            raise RequestTooLarge(f"The batch has more than {_MAX_TOKENS} JSON values.", param="requests")
        return found

    def _after_string(self, chunk: bytes) -> int:
        """Where a string ends that began in an earlier chunk; 0 where none did."""
        position = int(self._escaped)
        self._escaped = False
        if not self._in_string:
            return 0
        if (end := _STRING_END.match(chunk, position)) is None:
            self._note_escape(chunk[position:])
            return len(chunk)
        self._in_string = False
        return end.end()

    def _note_escape(self, rest: bytes) -> None:
        """Whether the part of a string ends within an escape."""
        self._escaped = (len(rest) - len(rest.rstrip(b"\\"))) % 2 == 1

    def finish(self) -> int:
        """How many requests there were. Raises InvalidRequest: the body is no JSON object with a list `requests` of objects alone."""
        try:
            value = from_json(bytes(self._skeleton), allow_inf_nan=False)
        except ValueError:
            raise InvalidRequest("The request body is not valid JSON.") from None
        requests = value.get("requests") if isinstance(value, dict) else None
        if not isinstance(requests, list) or len(requests) != self._cut or any(item != self._mark for item in requests):
            raise InvalidRequest("Invalid `requests`: expected a list of objects.", param="requests")
        return self._cut
