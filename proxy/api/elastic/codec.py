"""Elastic's inference API in and out: inference calls → neutral requests, endpoints in and out, events and errors. No I/O.

Source: contract `elastic-inference.md`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, model_validator

from proxy.api.http.requests import canonical_digest, validated
from proxy.api.http.responses import StreamEncoder, json_line
from proxy.catalog import Catalog
from proxy.errors import (
    InvalidApiKey,
    InvalidRequest,
    JobTimeout,
    ModelNotFound,
    PaidFailure,
    PermissionDenied,
    ProxyError,
    RequestTooLarge,
)
from proxy.inference.endpoints import Endpoint, TaskDefaults, TaskType
from proxy.inference.request import JsonObject, Message, Request, Sampling, Text
from proxy.inference.result import Event, TextDelta
from proxy.settings import is_uuid

_MOST_FIELDS: Final = 100
_ANTHROPIC_REQUESTS_PER_MINUTE: Final = 50
_ALREADY_EXISTS: Final = "resource_already_exists"
_RETRIED: Final = frozenset({429, 502, 503, 504})
_MAX_REASON: Final = 2_000
_ID: Final = re.compile(r"\A[a-z0-9](?:[a-z0-9_-]{0,98}[a-z0-9])?\Z")
_SPAN: Final = re.compile(r"\A(\d{1,9})(ms|s|m|h|d)\Z")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


# ---------------------------------------------------------------- bodies: strict, an unknown setting is an error; null is as absent


def _uuid(text: str) -> str:
    if not is_uuid(text):
        raise ValueError("expected a uuid")
    return text


class _Body(BaseModel, frozen=True, extra="forbid", strict=True):
    @model_validator(mode="before")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > _MOST_FIELDS:
            raise ValueError(f"expected at most {_MOST_FIELDS} fields")  # each unknown one would be an error of its own
        return value


class _RateLimit(_Body):
    requests_per_minute: int = Field(ge=1)


class _ServiceSettings(_Body):
    model_id: str = Field(min_length=1)
    rate_limit: _RateLimit | None = None
    fallback: str | None = Field(default=None, min_length=1)


class _NarrativeServiceSettings(_ServiceSettings):
    # Without one the endpoint runs on the proxy's own token.
    api_key: str | None = Field(default=None, min_length=1)
    data_plane_id: Annotated[str, AfterValidator(_uuid)] | None = None


class _AnthropicServiceSettings(_ServiceSettings):
    api_key: str = Field(min_length=1)


class TaskSettings(_Body):
    """How an endpoint, or one call, wants its answers; `top_k` 0 is the same as none."""

    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_k: int | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, ge=0, le=1)


class _AnthropicTaskSettings(TaskSettings):
    max_tokens: int = Field(ge=1)  # which has no default there
    temperature: float | None = Field(default=None, ge=0, le=1)


class PutNarrative(_Body):
    """The body of a `PUT` of an endpoint that runs on Narrative."""

    service: Literal["narrative"]
    service_settings: _NarrativeServiceSettings
    task_settings: TaskSettings | None = None


class PutAnthropic(_Body):
    """The body of a `PUT` of an endpoint that calls Anthropic's API."""

    service: Literal["anthropic"]
    service_settings: _AnthropicServiceSettings
    task_settings: _AnthropicTaskSettings


class CompletionBody(_Body):
    """The body of `POST /_inference/completion/{id}`."""

    input: Annotated[
        Annotated[str, Tag("#string")]
        | Annotated[list[str], Tag("#list"), Field(fail_fast=True, min_length=1, max_length=32)],
        Discriminator(lambda value: "#list" if isinstance(value, list) else "#string"),
    ]
    task_settings: TaskSettings | None = None


# ---------------------------------------------------------------- inference


def completion_requests(inference_id: str, body: CompletionBody, *, stream: bool) -> list[Request]:
    """One request for each input. Raises InvalidRequest: an input is blank, or there are several for one stream."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    if stream and len(texts) > 1:
        raise InvalidRequest("Invalid `input`: a stream answers one input at a time.", param="input")
    if any(not text.strip() for text in texts):
        raise InvalidRequest("Invalid `input`: expected text.", param="input")
    settings = body.task_settings or TaskSettings()
    sampling = Sampling(
        temperature=None if settings.temperature is None else min(settings.temperature, 1.0),
        top_p=settings.top_p,
        top_k=settings.top_k or None,
    )
    lowered = settings.temperature is not None and settings.temperature > 1
    return [
        Request(
            model=inference_id,
            messages=(Message("user", (Text(text, "input"),), "input"),),
            sampling=sampling,
            max_tokens=settings.max_tokens,
            body_bytes=len(text.encode()),
            adjusted=("temperature: lowered to 1",) if lowered else (),
        )
        for text in texts
    ]


def completion_digest(request: Request) -> str:
    """Equal for completions that ask for the same."""
    sampling = request.sampling
    texts = [block.text for message in request.messages for block in message.content if isinstance(block, Text)]
    settings = [request.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k]
    return canonical_digest(["completion", request.model, texts, settings])


def timeout_seconds(text: str | None) -> float:
    """Seconds of a `timeout` parameter such as `30s`; infinity where there is none, or it says not to limit.

    Raises:
        InvalidRequest: it is not a span of time.
    """
    if text is None or text in ("-1", "0"):
        return float("inf")
    span = _SPAN.match(text)
    if span is None:
        raise InvalidRequest(f"Failed to parse [timeout] with value [{text[:40]}] as a time value.", param="timeout")
    return int(span[1]) * _UNITS[span[2]]


class CompletionEncoder:
    """The bytes of a streamed completion; see `proxy.api.http.responses.StreamEncoder`."""

    end = b"event: message\ndata: [DONE]\n\n"

    def encode(self, event: Event) -> Iterator[bytes]:
        """Only text is part of a completion."""
        if isinstance(event, TextDelta):
            yield b"event: message\ndata: " + json_line({"completion": [{"delta": event.text}]}) + b"\n\n"

    def heartbeat(self) -> bytes:
        """Empty: the format has no event without content."""
        return b""

    def error(self, error: ProxyError) -> bytes:
        """An event named `error`; `[DONE]` does not follow."""
        return b"event: error\ndata: " + json_line(error_out(error)) + b"\n\n"


class ChatEncoder(CompletionEncoder):
    """The bytes of a streamed chat completion: OpenAI's chunks, each an event named `message`."""

    def __init__(self, chunks: StreamEncoder) -> None:
        self._chunks = chunks

    def encode(self, event: Event) -> Iterator[bytes]:
        """The chunks of an event."""
        for chunk in self._chunks.encode(event):
            yield b"event: message\n" + chunk

    def heartbeat(self) -> bytes:
        """A chunk with an empty delta; empty before the first one."""
        chunk = self._chunks.heartbeat()
        return chunk and b"event: message\n" + chunk


# ---------------------------------------------------------------- endpoints


def decode_endpoint(
    task_type: str, inference_id: str, body: Mapping[str, Any], catalog: Catalog, *, now: int
) -> tuple[Endpoint, str | None]:
    """The endpoint that a `PUT` asks for, and its credential in the clear. Raises InvalidRequest: anything about it is wrong."""
    check_id(inference_id, catalog)
    put: PutNarrative | PutAnthropic
    allowed: tuple[TaskType, ...]
    match body.get("service"):
        case "narrative":
            put, allowed = validated(PutNarrative, body), ("completion", "chat_completion")
        case "anthropic":
            put, allowed = validated(PutAnthropic, body), ("completion",)
        case str(name):
            message = f"Unknown service [{name[:40]}]; expected one of narrative, anthropic."
            raise InvalidRequest(message, param="service")
        case _:
            raise InvalidRequest("Invalid `service`: expected the name of a service.", param="service")
    settings = put.service_settings
    if isinstance(put, PutNarrative) and settings.model_id not in catalog.names:
        offered = ", ".join(card.id for card in catalog.cards)
        message = f"Unknown model [{settings.model_id[:100]}]; expected one of {offered}."
        raise InvalidRequest(message, param="service_settings.model_id")
    if task_type not in allowed:
        raise InvalidRequest(
            f"The [{put.service}] service does not support task type [{task_type[:40]}]; expected one of {', '.join(allowed)}.",
            param="task_type",
        )
    key = settings.api_key
    if key is not None and not (key.isascii() and key.isprintable()):
        param = "service_settings.api_key"
        raise InvalidRequest(f"Invalid `{param}`: it holds characters that no header can carry.", param=param)
    usual = _ANTHROPIC_REQUESTS_PER_MINUTE if put.service == "anthropic" else None
    endpoint = Endpoint(
        id=inference_id,
        task_type=task_type,
        service=put.service,
        model_id=settings.model_id,
        data_plane_id=put.service_settings.data_plane_id if isinstance(put, PutNarrative) else None,
        requests_per_minute=settings.rate_limit.requests_per_minute if settings.rate_limit else usual,
        defaults=TaskDefaults() if put.task_settings is None else TaskDefaults(**put.task_settings.model_dump()),
        fallback=settings.fallback,
        created_at=now,
    )
    return endpoint, key


def check_id(inference_id: str, catalog: Catalog) -> None:
    """Raises InvalidRequest: it cannot name an endpoint."""
    if not _ID.match(inference_id):
        raise InvalidRequest(
            f"[{inference_id[:100]}] is an invalid inference_id; it has lowercase letters, digits, hyphens and underscores, begins and "
            "ends with a letter or a digit, and is 100 characters long at most.",
            param="inference_id",
        )
    if inference_id in catalog.names:
        raise InvalidRequest(f"[{inference_id}] is the name of a model here.", param="inference_id")


def encode_endpoint(endpoint: Endpoint) -> JsonObject:
    """An endpoint as it was stored, with the defaults of its service filled in, and without its credential."""
    limit = endpoint.requests_per_minute
    settings = {
        "model_id": endpoint.model_id,
        "data_plane_id": endpoint.data_plane_id,
        "rate_limit": None if limit is None else {"requests_per_minute": limit},
        "fallback": endpoint.fallback,
    }
    return {
        "inference_id": endpoint.id,
        "task_type": endpoint.task_type,
        "service": endpoint.service,
        "service_settings": {name: value for name, value in settings.items() if value is not None},
        "task_settings": endpoint.defaults.model_dump(exclude_none=True),
    }


def exists_already(inference_id: str) -> InvalidRequest:
    """The error for an endpoint that exists and cannot be created again."""
    return InvalidRequest(f"Inference endpoint [{inference_id}] already exists", code=_ALREADY_EXISTS)


# ---------------------------------------------------------------- errors


def error_out(error: ProxyError) -> JsonObject:
    """The JSON body of an error, in a response or as the last event of a stream; `status` is that of the response."""
    kind, reason = _type(error), error.message[:_MAX_REASON]
    return {
        "error": {"root_cause": [{"type": kind, "reason": reason}], "type": kind, "reason": reason},
        "status": error_status(error),
    }


def error_status(error: ProxyError) -> int:
    """The official clients retry 429, 502, 503 and 504 three times by themselves, whatever a header says: an error whose retry would pay
    again never has one of these statuses.
    """
    if isinstance(error, JobTimeout):
        return 408
    if isinstance(error, PaidFailure) or (error.status in _RETRIED and error.retry_after is None):
        return 500
    return error.status


def _type(error: ProxyError) -> str:
    match error:
        case ModelNotFound():
            return "resource_not_found_exception"
        case RequestTooLarge():
            return "content_too_long_exception"
        case InvalidRequest() if error.code == _ALREADY_EXISTS:
            return "resource_already_exists_exception"
        case InvalidRequest(param=None):
            return "illegal_argument_exception"
        case InvalidRequest():
            return "validation_exception"
        case InvalidApiKey() | PermissionDenied():
            return "security_exception"
        case _:
            return "status_exception"
