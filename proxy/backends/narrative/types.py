"""What Narrative speaks: the bodies of its job and inference API, written strictly and read tolerantly.

What we send is validated strictly (a fault here is ours). What we receive may lack fields, carry unknown ones, use either
spelling of an id and leave out the zone of a time; see shared contract `narrative.md`, whose *assumed* rows a reader must survive.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

BASE_URLS: Mapping[str, str] = {"prod": "https://api.narrative.io", "dev": "https://api-dev.narrative.io"}
"""Environment name → base URL."""

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


def _utc(value: datetime) -> datetime:
    """Narrative leaves the zone out of some times; they are UTC."""
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time before the year 1 or after 9999") from None


def _null_is_zero(value: Any) -> Any:
    return 0 if value is None else value


def _words(value: Any) -> Any:
    """Failures come as objects with a message under one of several names, or as bare strings."""
    if not isinstance(value, list):
        return [] if value is None else [str(value)]
    return [_sentence(item) for item in value]


def _sentence(failure: Any) -> str:
    if not isinstance(failure, Mapping):
        return str(failure)
    names = ("error", "cause", "type", "code", "message", "error_description", "description", "reason")
    parts = [str(failure[name]) for name in names if isinstance(failure.get(name), str) and failure[name]]
    return ": ".join(dict.fromkeys(parts)) or str(dict(failure))


Time = Annotated[datetime, AfterValidator(_utc)]
Count = Annotated[int, BeforeValidator(_null_is_zero)]


class Usage(_Received):
    """Tokens of one job; absent counts are 0."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    total_tokens: Count = 0


class RunResult(_Received):
    structured_output: Any = None
    usage: Annotated[Usage, BeforeValidator(lambda value: {} if value is None else value)] = Usage()


class Job(_Received):
    """A job as `GET /jobs/{job_id}` and the records of `GET /jobs` show it."""

    id: JobId = Field(validation_alias=AliasChoices("job_id", "id"))
    state: str = JobState.PENDING
    type: str | None = None
    input: Any = None
    result: RunResult | None = None
    failures: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    data_plane_id: str | None = None
    created_at: Time | None = None
    updated_at: Time | None = None
    ended_at: Time | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def result_as(self, model: ModelType[M]) -> M:
        """The structured output as a pydantic model.

        Raises:
            ValueError: there is no output, or (pydantic's `ValidationError`) it is not of that form.
        """
        if self.result is None:
            raise ValueError(f"job {self.id} is {self.state} and has no result")
        return model.model_validate(self.result.structured_output)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags it was submitted with, as far as the record echoes them in `input.tags` (assumed)."""
        return tags_of(self.input)


def tags_of(job_input: Any) -> tuple[str, ...]:
    """The tags in the `input` of a job's record, whatever it holds."""
    tags = job_input.get("tags") if isinstance(job_input, Mapping) else None
    return tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else ()


class JobPage(_Received):
    """The answer of `GET /jobs`. Records that cannot be read at all are the caller's to skip: they stay raw here."""

    records: tuple[JsonObject, ...] = ()
    current_page: int | None = None
    total_pages: int | None = None
    total_records: int | None = None


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


class Delivery(_Received):
    """What is posted to the subscribed URL; `data` is the job's record, with or without its result."""

    id: str | None = None
    type: str | None = None
    data: JsonObject
