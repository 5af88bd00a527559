"""The bodies of Narrative's job and inference API: what is sent is validated strictly, what is received is read tolerantly.

What is received may lack fields, carry unknown ones, use either spelling of an id, write states in any letter case, count
tokens in fractions and leave out the zone of a time. Every record of a job echoes its whole request, so a page of twenty can
hold megabytes: msgspec skips what is not named here without building objects, and input, result and failures stay undecoded
until somebody waits for that very job. Source: shared contract `narrative.md`, whose *assumed* rows a reader must survive.
"""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final, Literal, TypeVar

import msgspec
from pydantic import BaseModel, Field, ValidationError

BASE_URLS: Mapping[str, str] = {"prod": "https://api.narrative.io", "dev": "https://api-dev.narrative.io"}
"""Environment name → base URL."""

TAG_PREFIX: Final = "rid:"
"""Start of the tag that is unique to a submission, by which its job is found when the answer is lost."""

JsonObject = dict[str, Any]
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
_JOB_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
"""A uuid by the contract; whatever else it may be, it goes into paths and response headers."""


class _Sent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is sent; fields that are None are left out."""


class TextBlock(_Sent, frozen=True, tag_field="type", tag="text"):
    """Text of a turn."""

    text: str


class ToolUseBlock(_Sent, frozen=True, tag_field="type", tag="tool_use"):
    """A call the model made, in an assistant turn."""

    tool_use_id: str
    name: str
    input: JsonObject


class ToolResultBlock(_Sent, frozen=True, tag_field="type", tag="tool_result"):
    """What a call gave back, in the user turn right after it."""

    tool_use_id: str
    content: tuple[TextBlock, ...]
    is_error: bool | None = None


Block = TextBlock | ToolUseBlock | ToolResultBlock


class RunMessage(_Sent, frozen=True):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: tuple[Block, ...]


class InferenceConfig(_Sent, frozen=True):
    """The output schema and the sampling; what is None is left to the model."""

    output_format_schema: JsonObject
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop_sequences: tuple[str, ...] | None = None


class RunRequest(_Sent, frozen=True):
    """The body of `POST /model-inference/run`; `encoded` gives its JSON."""

    data_plane_id: str
    model: str
    messages: tuple[RunMessage, ...]
    inference_config: InferenceConfig
    tags: tuple[str, ...] = ()


def encoded(body: _Sent) -> bytes:
    """The JSON of what is sent."""
    try:
        return msgspec.json.encode(body)
    except OverflowError:  # an integer of more than 64 bits
        return json.dumps(msgspec.to_builtins(body), ensure_ascii=False).encode()


class JobState(StrEnum):
    """The documented states. A job's own `state` is a plain string: unknown ones are read as not ended."""

    PENDING = "pending"
    RUNNING = "running"
    PENDING_CANCELLATION = "pending_cancellation"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: Final = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class JobUsage:
    """Tokens of one job; 0 where Narrative names no number."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a completed job brought, in `size` bytes of JSON; `structured_output` is None when it is missing."""

    structured_output: Any = None
    usage: JobUsage = JobUsage()
    size: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as `GET /jobs/{job_id}` and the records of `GET /jobs` show it, without the echo of its input.

    Args:
        state: in the contract's spelling if it is a documented `JobState`.
        tags: from `input.tags` (assumed).
        failures: each as one line.
        created_at: as all times in UTC, None when it is missing or cannot be read.
        noticed_by: what first showed its end to who waits for it: `poll` (the job itself), `list`, `webhook` or `replica` (a message of
            another one); "" before.
    """

    id: str
    state: str = JobState.PENDING
    tags: tuple[str, ...] = ()
    result: RunResult | None = None
    failures: tuple[str, ...] = ()
    created_at: datetime | None = None
    updated_at: datetime | None = None
    ended_at: datetime | None = None
    noticed_by: str = field(default="", compare=False)

    @property
    def ended(self) -> bool:
        """Whether it is completed, failed or cancelled."""
        return self.state in ENDED

    @property
    def complete(self) -> bool:
        """Whether an ended job's record holds what a caller needs; list pages and webhooks may leave it out."""
        if self.state == JobState.COMPLETED:
            return self.result is not None and self.result.structured_output is not None
        return self.state == JobState.CANCELLED or bool(self.failures)

    def result_as(self, model: type[M]) -> M:
        """The structured output as a pydantic model. Raises ValueError: there is none, or it does not match (`ValidationError`)."""
        if self.result is None:
            raise ValueError(f"job {self.id} is {self.state} and has no result")
        return model.model_validate(self.result.structured_output)


class WebhookRequest(_Sent, frozen=True, tag_field="type", tag="webhook_subscription_jobs"):
    """The body of `POST /webhooks`; absent filters take everything."""

    url: str
    name: str
    job_types: tuple[str, ...] | None = None
    states: tuple[str, ...] | None = None


class Webhook(BaseModel, frozen=True):
    """A subscription; `secret` comes only with the answer that made it."""

    id: str
    name: str | None = None
    secret: str | None = Field(default=None, repr=False)
    status: str | None = None


_NULL: Final = msgspec.Raw(b"null")


class JobRecord(msgspec.Struct, omit_defaults=True):
    """One job of an answer, hardly read. `input`, `result` and `failures` are JSON text."""

    job_id: Any = None
    id: Any = None
    state: Any = None
    input: msgspec.Raw = _NULL
    result: msgspec.Raw = _NULL
    failures: msgspec.Raw = _NULL
    created_at: Any = None
    updated_at: Any = None
    ended_at: Any = None

    @property
    def name(self) -> str | None:
        """The job's id, None when the record has none that can be used."""
        found = self.job_id or self.id
        return found if isinstance(found, str) and _JOB_ID.fullmatch(found) else None

    @property
    def ended(self) -> bool:
        """Whether its state says so, in any letter case."""
        return isinstance(self.state, str) and _normal_state(self.state) in ENDED

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags its request carried, as far as `input.tags` shows them."""
        try:
            return tuple([tag for tag in msgspec.json.decode(self.input, type=_Tagged).tags if isinstance(tag, str)])
        except (msgspec.MsgspecError, RecursionError):
            return ()

    def job(self) -> Job | None:
        """The job. None when the record has no id, a state that is no text, or a result that is no object; all else is read as
        far as it makes sense."""
        job_id, state = self.name, self.state
        try:
            result, failures = parse_json(self.result), parse_json(self.failures)
        except (ValueError, RecursionError):
            return None
        if job_id is None or not isinstance(state, str | None) or not isinstance(result, dict | None):
            return None
        return Job(
            id=job_id,
            state=JobState.PENDING if state is None else _normal_state(state),
            tags=self.tags,
            result=None if result is None else _result(result, len(self.result)),
            failures=_failures(failures) if failures else (),
            created_at=read_time(self.created_at),
            updated_at=read_time(self.updated_at),
            ended_at=read_time(self.ended_at),
        )


@dataclass(frozen=True, slots=True)
class JobPage:
    """The answer of `GET /jobs`, without records that are no object: `total_records` match in all (None when Narrative did not say),
    and the answer has `size` bytes."""

    records: tuple[JobRecord, ...]
    total_records: int | None = None
    size: int = 0

    def jobs(self) -> list[Job]:
        """The jobs of the page, without the records that cannot be read."""
        return [job for record in self.records if (job := record.job()) is not None]


class _Tagged(msgspec.Struct):
    tags: list[Any] = []


class _Page(msgspec.Struct):
    records: list[JobRecord | bool | float | str | list[Any] | None]
    total_records: Any = None


def decoded(kind: type[T], body: bytes | msgspec.Raw | str) -> T:
    """What is received, as an object of that type. What no strict parser takes is repaired: half a surrogate pair becomes U+FFFD, and
    numbers that JSON does not have become null. Raises ValueError: not JSON, or of another form; RecursionError: nested too deep.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError:
        text = json.dumps(json.loads(body if isinstance(body, str) else bytes(body)), ensure_ascii=False)
        found = json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        return msgspec.json.decode(msgspec.json.encode(found), type=kind)


parse_json: Callable[[bytes | msgspec.Raw], Any] = partial(decoded, object)
"""JSON as Python values. Raises as `decoded`."""
parse_record = partial(decoded, JobRecord)
"""The record of a job. Raises as `decoded`."""


def parse_page(body: bytes) -> JobPage:
    """A page of jobs. Raises as `decoded`."""
    page = decoded(_Page, body)
    records = tuple([record for record in page.records if isinstance(record, JobRecord)])
    return JobPage(records, page.total_records if isinstance(page.total_records, int) else None, len(body))


def parse_webhooks(body: bytes) -> list[Webhook]:
    """The subscriptions that can be read, of a list or (assumed) of a page like that of the jobs. Raises ValueError for all else."""
    found = parse_json(body)
    records = found.get("records") if isinstance(found, dict) else found
    if not isinstance(records, list):
        raise ValueError("not a list of webhooks")
    webhooks = []
    for record in records:
        with suppress(ValidationError):
            webhooks.append(Webhook.model_validate(record))
    return webhooks


def read_time(value: Any) -> datetime | None:
    """ISO 8601 text or seconds since 1970, as UTC; a missing zone means UTC, and what cannot be read is None."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(value, UTC)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def _normal_state(state: str) -> str:
    state = state.strip().lower()
    return JobState.CANCELLED.value if state == "canceled" else state


def _result(fields: Mapping[str, Any], size: int) -> RunResult:
    """Counts of tokens are rounded; what is missing, negative or no number counts as 0."""
    usage: Any = fields.get("usage")
    counts = [0, 0, 0]
    for number, name in enumerate(("prompt_tokens", "completion_tokens", "total_tokens")):
        with suppress(KeyError, ValueError, TypeError, OverflowError):
            counts[number] = max(round(float(usage[name])), 0)
    return RunResult(fields.get("structured_output"), JobUsage(*counts), size)


def _failures(found: Any) -> tuple[str, ...]:
    """Failures come as objects with a message under one of several names, or as bare strings, in a list or alone."""
    texts, names = [], ("error", "cause", "type", "code", "message", "error_description", "description", "reason")
    for failure in found if isinstance(found, list) else [found]:
        fields = failure if isinstance(failure, dict) else {}
        parts = [fields[name] for name in names if isinstance(fields.get(name), str) and fields[name]]
        texts.append(": ".join(dict.fromkeys(parts)) or str(failure))
    return tuple(texts)
