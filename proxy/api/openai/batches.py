"""Routes of batches, and how their lines are read and written. Source: contract `openai-batches.md`."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import orjson
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.access.authentication import Caller
from proxy.api.http.batches import asked, enter
from proxy.api.http.requests import computed, read_object, validated
from proxy.api.http.responses import json_line, json_response
from proxy.api.openai.encode import completion_body, error_body
from proxy.api.openai.files import seconds_kept
from proxy.api.openai.responses.background import Background
from proxy.api.openai.responses.encode import finished
from proxy.api.openai.responses.store import response_id
from proxy.api.openai.routes import decode_body, error_response, page_response, route
from proxy.api.openai.types import RequestModel
from proxy.batches.engine import NewBatch
from proxy.batches.lines import Line, LineRequest
from proxy.batches.records import Batch
from proxy.errors import FileNotFound, InvalidRequest, ProxyError
from proxy.inference.request import JsonObject
from proxy.inference.result import Result
from proxy.schemas.values import json_bytes

CHAT: Final = "/v1/chat/completions"
RESPONSES: Final = "/v1/responses"
_MAX_PAIRS, _MAX_KEY, _MAX_VALUE = 16, 64, 512


def batches_routes() -> list[Route]:
    """All of them."""
    return [
        *route("/batches", create, "POST"),
        *route("/batches", list_batches, "GET"),
        *route("/batches/{id}", retrieve, "GET"),
        *route("/batches/{id}/cancel", cancel, "POST"),
    ]


class _ExpiresAfter(RequestModel):
    anchor: Literal["created_at"]
    seconds: int


class BatchRequest(RequestModel):
    """The body of `POST /v1/batches`."""

    input_file_id: str = Field(min_length=1)
    endpoint: Literal["/v1/chat/completions", "/v1/responses"]
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None
    output_expires_after: _ExpiresAfter | None = None


async def create(request: Request) -> Response:
    """`POST /v1/batches`. Whether the file is right is found later."""
    batches, owner, caller = await enter(request)
    settings = request.state.api.settings

    body = await read_object(request, lambda raw, _: validated(BatchRequest, raw))
    pairs = body.metadata or {}
    if len(pairs) > _MAX_PAIRS or any(len(key) > _MAX_KEY or len(pairs[key]) > _MAX_VALUE for key in pairs):
        expected = f"{_MAX_PAIRS} pairs at most, with keys of {_MAX_KEY} and values of {_MAX_VALUE} characters"
        raise InvalidRequest(f"Invalid `metadata`: expected {expected}.", param="metadata")
    kept = body.output_expires_after
    ttl_s = seconds_kept(kept.anchor, kept.seconds, "output_expires_after", settings.batches) if kept else None
    made = asked(request, owner, caller, body.model_dump())
    batch = await batches.repeated(made)
    if batch is None:
        try:
            file = await batches.files.find(owner, body.input_file_id)
        except FileNotFound as error:
            raise InvalidRequest(f"Invalid `input_file_id`: {error.message}", param="input_file_id") from None
        if file.purpose != "batch":
            message = "Invalid `input_file_id`: expected a file with the purpose 'batch'."
            raise InvalidRequest(message, param="input_file_id")
        new = NewBatch("batch_", body.endpoint, file, body.metadata, ttl_s)
        batch = await batches.create(new, made)
    return json_response(batch_out(batch))


async def list_batches(request: Request) -> Response:
    """`GET /v1/batches`: one's own batches, newest first, in pages."""
    batches, owner, _ = await enter(request)
    found = await batches.records.all(owner)
    return page_response(request, [batch_out(batch) for batch in found])


async def retrieve(request: Request) -> Response:
    """`GET /v1/batches/{id}`: one read."""
    batches, owner, _ = await enter(request)
    return json_response(batch_out(await batches.records.find(owner, request.path_params["id"])))


async def cancel(request: Request) -> Response:
    """`POST /v1/batches/{id}/cancel`: no more lines are begun; those with a job are awaited."""
    batches, owner, _ = await enter(request)
    return json_response(batch_out(await batches.cancel(owner, request.path_params["id"])))


def batch_out(batch: Batch) -> JsonObject:
    """The batch object."""
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": None,
        "errors": {"object": "list", "data": list(batch.errors)} if batch.errors else None,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": int(batch.created_at),
        "in_progress_at": batch.in_progress_at,
        "expires_at": batch.expires_at,
        "finalizing_at": batch.finalizing_at,
        "completed_at": batch.completed_at,
        "failed_at": batch.failed_at,
        "expired_at": batch.expired_at,
        "cancelling_at": batch.cancelling_at,
        "cancelled_at": batch.cancelled_at,
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": {
            "input_tokens": batch.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": batch.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": batch.input_tokens + batch.output_tokens,
        },
        "metadata": batch.metadata,
    }


# ---------------------------------------------------------------- lines


@dataclass(frozen=True, slots=True)
class OpenAILines:
    """Lines for one of the two endpoints; see `LineApi`."""

    background: Background
    endpoint: str
    one_file = False

    async def decode(self, body: JsonObject, size: int, caller: Caller, line: Line) -> LineRequest:
        """See `LineApi`. What a request for a response continues is read."""
        for name in ("stream", "background") if self.endpoint == RESPONSES else ("stream",):
            if body.get(name) is True:
                raise InvalidRequest(f"Invalid `{name}`: expected false, as the line of a batch.", param=name)
        background, api = self.background, self.background.api
        if self.endpoint == CHAT:
            decoded, reply, _ = await computed(size, partial(decode_body, api, body, size))

            async def completion(result: Result) -> bytes:
                return completion_body(reply, result)

            return LineRequest(decoded, completion)
        id_, asked_for = response_id("batch", str(line.id)), await background.decoded(body, size, caller)

        async def response(result: Result) -> bytes:
            seal = partial(background.store.seal, caller)
            whole = finished(id_, result, asked_for.reply, seal, int(time.time()))
            return json_bytes(await background.stored(id_, whole, asked_for, caller))

        return LineRequest(asked_for.request, response)

    def answered(self, line: Line, body: bytes) -> bytes:
        """See `LineApi`."""
        return _row(line, {"status_code": 200, "request_id": f"req_{line.id.hex}", "body": orjson.Fragment(body)})

    def failed(self, line: Line, error: ProxyError) -> bytes:
        """See `LineApi`."""
        chat = self.background.api.settings.chat
        status = error_response(error, paid_failure_status=chat.paid_failure_status).status_code
        body = orjson.Fragment(error_body(error))
        return _row(line, {"status_code": status, "request_id": f"req_{line.id.hex}", "body": body})

    def unsent(self, line: Line, *, cancelled: bool) -> bytes | None:
        """See `LineApi`."""
        message = "The batch expired before this request was begun."
        return None if cancelled else _row(line, None, {"code": "batch_expired", "message": message})


def _row(line: Line, response: Any, error: JsonObject | None = None) -> bytes:
    row = {"id": f"batch_req_{line.id.hex}", "custom_id": line.custom_id, "response": response, "error": error}
    return json_line(row)
