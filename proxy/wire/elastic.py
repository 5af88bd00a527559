"""What clients of Elastic's inference API speak. Source: shared contract `elastic-inference.md`.

Requests are strict: an unknown setting is an error, as it is there. Null is the same as absent.
"""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from proxy.wire.openai import ChatRequest


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RateLimit(_Body):
    requests_per_minute: int = Field(ge=1)


class NarrativeSettings(_Body):
    """`service_settings` of the `narrative` service. Without `api_key` the endpoint runs on the proxy's own token."""

    model_id: str = Field(min_length=1)
    api_key: str | None = Field(default=None, min_length=1)
    data_plane_id: str | None = Field(default=None, min_length=1)
    rate_limit: RateLimit | None = None
    fallback: str | None = Field(default=None, min_length=1)


class AnthropicSettings(_Body):
    """`service_settings` of the `anthropic` service."""

    model_id: str = Field(min_length=1)
    api_key: str = Field(min_length=1)
    rate_limit: RateLimit | None = None
    fallback: str | None = Field(default=None, min_length=1)


class TaskSettings(_Body):
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_k: int | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, ge=0, le=1)


class AnthropicTaskSettings(TaskSettings):
    """Those of an endpoint of the `anthropic` service, whose reply limit has no default."""

    max_tokens: int = Field(ge=1)
    temperature: float | None = Field(default=None, ge=0, le=1)


class NamedService(BaseModel):
    """As much of a `PUT` as says how to read the rest."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    service: str


class PutNarrative(_Body):
    service: Literal["narrative"]
    service_settings: NarrativeSettings
    task_settings: TaskSettings | None = None


class PutAnthropic(_Body):
    service: Literal["anthropic"]
    service_settings: AnthropicSettings
    task_settings: AnthropicTaskSettings


def _input_tag(value: Any) -> str:
    return "#list" if isinstance(value, list) else "#string"


Input = Annotated[
    Annotated[str, Tag("#string")] | Annotated[list[str], Tag("#list"), Field(min_length=1, max_length=32)],
    Discriminator(_input_tag),
]


class CompletionBody(_Body):
    """The body of `POST /_inference/completion/{id}`."""

    input: Input
    task_settings: TaskSettings | None = None


class ChatCompletionBody(ChatRequest):
    """The body of `POST /_inference/chat_completion/{id}/_stream`: a chat request whose model is the endpoint's, whatever it says."""

    model: str = "endpoint"


# ---------------------------------------------------------------- answers


class RateLimitOut(TypedDict):
    requests_per_minute: int


class ServiceSettingsOut(TypedDict):
    """Never with the credential."""

    model_id: str
    data_plane_id: NotRequired[str]
    rate_limit: NotRequired[RateLimitOut]
    fallback: NotRequired[str]


class TaskSettingsOut(TypedDict, total=False):
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float


class EndpointOut(TypedDict):
    inference_id: str
    task_type: str
    service: str
    service_settings: ServiceSettingsOut
    task_settings: TaskSettingsOut


class EndpointsOut(TypedDict):
    endpoints: list[EndpointOut]


class Acknowledged(TypedDict):
    acknowledged: bool


class Result(TypedDict):
    result: str


class CompletionOut(TypedDict):
    completion: list[Result]


class PieceOut(TypedDict):
    delta: str


class CompletionPiece(TypedDict):
    completion: list[PieceOut]


class Cause(TypedDict):
    type: str
    reason: str


class ErrorBody(TypedDict):
    root_cause: list[Cause]
    type: str
    reason: str


class ErrorOut(TypedDict):
    error: ErrorBody
    status: int
