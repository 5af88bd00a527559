"""The bodies of Narrative's job and inference API: what is sent is validated strictly, what is received is read tolerantly.

What is received may lack fields, carry unknown ones, use either spelling of an id, write states in any letter case, count
tokens in fractions and leave out the zone of a time. Source: shared contract `narrative.md`, whose *assumed* rows a reader
must survive.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AliasChoices, AliasPath, BaseModel, BeforeValidator, ConfigDict, Field

BASE_URLS: Mapping[str, str] = {"prod": "https://api.narrative.io", "dev": "https://api-dev.narrative.io"}
"""Environment name → base URL."""

TAG_PREFIX: Final = "rid:"
"""Start of the tag that is unique to a submission, by which its job is found when the answer is lost."""

JsonObject = dict[str, Any]
M = TypeVar("M", bound=BaseModel)
ModelType = type[M]  # under this name since a job has a field `type`
JobId = Annotated[str, Field(pattern=r"\A[A-Za-z0-9_.:-]{1,128}\z")]
"""A uuid by the contract; whatever else it may be, it goes into paths and response headers."""


class _Sent(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Received(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


# ---------------------------------------------------------------- messages


class TextBlock(_Sent):
    type: Literal["text"] = "text"
    text: str


class ToolUseBlock(_Sent):
    """A call the model made, in an assistant turn."""

    type: Literal["tool_use"] = "tool_use"
    tool_use_id: str
    name: str
    input: JsonObject


class ToolResultBlock(_Sent):
    """What a call gave back, in the user turn right after it."""

    type: Literal["tool_result"] = "tool_result"
    tool_use_id: str
    content: tuple[TextBlock, ...]
    is_error: bool | None = None


Block = Annotated[TextBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]
Role = Literal["system", "user", "assistant"]


class Message(_Sent):
    """One turn."""

    role: Role
    content: tuple[Block, ...]


# ---------------------------------------------------------------- POST /model-inference/run


class InferenceConfig(_Sent):
    output_format_schema: JsonObject
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop_sequences: tuple[str, ...] | None = None


class RunRequest(_Sent):
    """The body of `POST /model-inference/run`. Dump it with `exclude_none=True`."""

    data_plane_id: str
    model: str
    messages: tuple[Message, ...]
    inference_config: InferenceConfig
    tags: tuple[str, ...] = ()


class RunAccepted(_Received):
    """Its answer: the id of the job that was enqueued."""

    job_id: JobId = Field(validation_alias=AliasChoices("job_id", "id"))


# ---------------------------------------------------------------- GET /jobs, GET /jobs/{job_id}


class JobState(StrEnum):
    """The documented states. A job's own `state` is a plain string: unknown ones are read as not ended."""

    PENDING = "pending"
    RUNNING = "running"
    PENDING_CANCELLATION = "pending_cancellation"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: frozenset[str] = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})


def normal_state(value: Any) -> Any:
    """A state in the contract's spelling: lower case, `canceled` with two l. Anything but text is left as it is."""
    if not isinstance(value, str):
        return value
    state = value.strip().lower()
    return JobState.CANCELLED.value if state == "canceled" else state


def read_time(value: Any) -> datetime | None:
    """ISO 8601 text or seconds since 1970, as UTC; a missing zone means UTC, and what cannot be read is None."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(value, UTC)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def _count(value: Any) -> int:
    """A number of tokens: fractions are rounded, and what is missing, negative or no number counts as 0."""
    try:
        return max(round(float(value)), 0)
    except (ValueError, TypeError, OverflowError):
        return 0


def _object(value: Any) -> Any:
    return value if isinstance(value, Mapping | BaseModel) else {}


def _messages(value: Any) -> tuple[str, ...]:
    """Failures come as objects with a message under one of several names, or as bare strings."""
    if value is None:
        return ()
    return tuple(_message(item) for item in value) if isinstance(value, list | tuple) else (_message(value),)


def _message(failure: Any) -> str:
    if not isinstance(failure, Mapping):
        return str(failure)
    names = ("error", "cause", "type", "code", "message", "error_description", "description", "reason")
    parts = [str(failure[name]) for name in names if isinstance(failure.get(name), str) and failure[name]]
    return ": ".join(dict.fromkeys(parts)) or str(dict(failure))


def _tags(value: Any) -> tuple[str, ...]:
    return tuple(tag for tag in value if isinstance(tag, str)) if isinstance(value, list | tuple) else ()


Time = Annotated[
    datetime | None, BeforeValidator(lambda value: value if isinstance(value, datetime) else read_time(value))
]
Count = Annotated[int, BeforeValidator(_count)]


class Usage(_Received):
    """Tokens of one job; absent counts are 0."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    total_tokens: Count = 0


class RunResult(_Received):
    """What a completed job brought; `structured_output` is None when it is missing."""

    structured_output: Any = None
    usage: Annotated[Usage, BeforeValidator(_object)] = Usage()


class Job(_Received):
    """A job as `GET /jobs/{job_id}` and the records of `GET /jobs` show it, without the echo of its input.

    Only an id, a textual state and, where there is one, a result that is an object are required; everything else is read
    as far as it makes sense. `tags` come from `input.tags` (assumed).
    """

    id: JobId = Field(validation_alias=AliasChoices("job_id", "id"))
    state: Annotated[str, BeforeValidator(normal_state)] = JobState.PENDING
    type: Annotated[str | None, BeforeValidator(lambda value: value if isinstance(value, str) else None)] = None
    tags: Annotated[tuple[str, ...], BeforeValidator(_tags)] = Field(
        default=(), validation_alias=AliasChoices("tags", AliasPath("input", "tags"))
    )
    result: RunResult | None = None
    failures: Annotated[tuple[str, ...], BeforeValidator(_messages)] = ()
    data_plane_id: Annotated[str | None, BeforeValidator(lambda value: value if isinstance(value, str) else None)] = (
        None
    )
    created_at: Time = None
    updated_at: Time = None
    ended_at: Time = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def complete(self) -> bool:
        """Whether an ended job's record holds what a caller needs; list pages and webhooks may leave it out."""
        if self.state == JobState.COMPLETED:
            return self.result is not None and self.result.structured_output is not None
        return self.state == JobState.CANCELLED or bool(self.failures)

    def result_as(self, model: ModelType[M]) -> M:
        """The structured output as a pydantic model.

        Raises:
            ValueError: there is no output, or (pydantic's `ValidationError`) it does not match the model.
        """
        if self.result is None:
            raise ValueError(f"job {self.id} is {self.state} and has no result")
        return model.model_validate(self.result.structured_output)


class ApiError(_Received):
    """Narrative's error body; a gateway in front may answer something else entirely."""

    error: str | None = None
    error_description: str | None = None


# ---------------------------------------------------------------- webhooks


class WebhookRequest(_Sent):
    """The body of `POST /webhooks`; absent filters take everything. Dump it with `exclude_none=True`."""

    type: Literal["webhook_subscription_jobs"] = "webhook_subscription_jobs"
    url: str
    name: str
    job_types: tuple[str, ...] | None = None
    states: tuple[str, ...] | None = None


class Webhook(_Received):
    """A subscription."""

    id: str
    url: str | None = None
    name: str | None = None
    secret: str | None = Field(default=None, repr=False)
    status: str | None = None
