"""What all endpoints share: the options, errors in Narrative's form, JSON as bytes, and the checks of headers and bodies."""

import json
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

M = TypeVar("M", bound=BaseModel)
_TOKEN = re.compile(r"\s*bearer\s+(\S+)\s*", re.IGNORECASE)
_JSON_RANGES = frozenset({"*/*", "application/*", "application/json"})

SANDBOX_DATA_PLANE = "5a4db0c5-0000-4000-8000-00005a4db0c5"
"""A data plane id for first runs and examples."""

_CLAUDE = ("haiku-4.5", "sonnet-4.5", "sonnet-4.6", "opus-4.5", "opus-4.6")
MODELS = frozenset(
    {"openai.gpt-oss-120b", "openai.gpt-4.1", "openai.o4-mini", *(f"anthropic.claude-{x}" for x in _CLAUDE)}
)
"""The models that Narrative documents."""

INVALID_SCHEMA = "Invalid schema"
_MESSAGES: Mapping[str, str] = {
    INVALID_SCHEMA: "The output_format_schema is malformed",
    "Model unavailable": "The model is not available in this data plane",
    "Token limit exceeded": "The response would exceed max_tokens",
    "Invalid data plane": "The data plane was not found, or there is no access to it",
}
"""Documented cause of failure → the message that goes with it."""

LOOPBACK: frozenset[str] = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True)
class SandboxOptions:
    """How strict the sandbox is and how long jobs take; docs/sandbox.md describes each option. Times are in seconds, sizes in
    bytes, and None accepts everything.
    """

    pending_s: float = 0.1
    running_s: float = 0.7
    retention_s: float = 3600.0
    max_jobs: int = 20_000
    max_bytes: int = 512 * 1024 * 1024
    max_body_bytes: int = 32 * 1024 * 1024
    data_planes: Set[str] | None = None
    tokens: Set[str] | None = None
    models: Set[str] = MODELS
    unavailable_models: Set[str] = field(default_factory=frozenset)
    schema_keywords: Literal["documented", "full"] = "documented"
    type_lists: bool = True
    max_schema_bytes: int | None = None
    tool_blocks: bool = True
    context_tokens: int | None = 200_000
    refusals: Literal["reject", "fail"] = "reject"
    id_name: Literal["job_id", "id"] = "job_id"
    webhooks: bool = True
    webhook_hosts: Set[str] = LOOPBACK
    webhook_secret: Literal["header", "bearer", "none"] = "header"  # noqa: S105 - how the secret travels
    webhook_results: bool = True
    webhook_attempts: int = 5
    webhook_retry_s: float = 1.0


# ---------------------------------------------------------------- errors and JSON


class SandboxError(Exception):
    """Ends a call with an error response of the form `{"error", "error_description"}`.

    `error` is by default the status's name, such as `bad_request`. `body` replaces that form; a string goes out as HTML.
    """

    def __init__(
        self,
        status: int,
        description: str,
        *,
        error: str | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(description)
        self.status = status
        self.error = error or HTTPStatus(status).phrase.lower().replace(" ", "_")
        self.description = description
        self.headers = dict(headers or {})
        self.body: Any = {"error": self.error, "error_description": description} if body is None else body

    def response(self) -> Response:
        """The response to send."""
        media_type = "text/html" if isinstance(self.body, str) else "application/json"
        body = self.body if isinstance(self.body, str) else dumps(self.body)
        return Response(body, self.status, self.headers, media_type)


class ModelRejection(Exception):
    """What fails a job, or refuses its submission with a 400, depending on `SandboxOptions.refusals`.

    `cause` is one of the documented causes of failure, or the model's own; `message` is by default the one that goes with it.
    """

    def __init__(self, cause: str, message: str | None = None) -> None:
        self.cause = cause
        self.message = message or _MESSAGES.get(cause, cause)
        super().__init__(f"{cause}: {self.message}")


def dumps(value: Any) -> bytes:
    """Compact JSON. Values that orjson cannot write (integers past 64 bits, lone surrogates) are written by `json`."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()


def first_error(fault: ValidationError) -> str:
    """Path and message of the first thing that pydantic found wrong, such as `messages[0].role: Field required`."""
    first = fault.errors(include_url=False, include_context=False, include_input=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
    # The tag of a content block follows the block's index; it is no part of the path.
    path = re.sub(r"(content\[\d+\])\.(text|tool_use|tool_result)", r"\1", path, count=1)
    return f"{path or 'body'}: {first['msg']}"


def parse(model: type[M], value: object) -> M:
    """A value, or JSON as bytes, as a model. Raises SandboxError: 400 that names the path of what is wrong."""
    try:
        return model.model_validate_json(value) if isinstance(value, bytes) else model.model_validate(value)
    except ValidationError as fault:
        raise SandboxError(400, first_error(fault)) from fault


async def read_body(request: Request, most: int) -> bytes:
    """The whole request body. Raises SandboxError: 413, it is larger than `most` bytes."""
    chunks, size = [], 0
    async for chunk in request.stream():
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            raise SandboxError(413, f"The request body has more than {most} bytes")
    return b"".join(chunks)


def check_headers(request: Request, options: SandboxOptions) -> None:
    """Raises SandboxError: 401 or 403 for the token, 406 when the client does not accept JSON, 415 when a POST does not send
    JSON, 400 when a GET or DELETE has a body.
    """
    headers = request.headers
    authorization = headers.getlist("authorization")
    found = _TOKEN.fullmatch(authorization[0]) if len(authorization) == 1 else None
    if found is None:
        raise SandboxError(401, "Exactly one Authorization header with a bearer token is required")
    token, tokens = found[1], options.tokens
    if token.startswith("invalid") if tokens is None else token not in tokens:
        raise SandboxError(401, "The bearer token is not valid")
    if tokens is None and token.startswith("forbidden"):
        raise SandboxError(403, "The token lacks the permission for this call")
    accepted = ",".join(headers.getlist("accept"))
    if accepted and not any(map(_admits_json, accepted.split(","))):
        raise SandboxError(406, "Accept: only application/json is available")
    if request.method == "POST":
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise SandboxError(415, "Content-Type: must be application/json")
    elif headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise SandboxError(400, f"A {request.method} request must not have a body")


def _admits_json(media_range: str) -> bool:
    name, *parameters = (part.strip().lower() for part in media_range.split(";"))
    return name in _JSON_RANGES and not any(re.fullmatch(r"q=0(\.0*)?", each) for each in parameters)
