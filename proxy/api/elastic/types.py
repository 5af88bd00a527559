"""Bodies of Elastic's inference API. Source: contract `elastic-inference.md`.

Requests are strict: an unknown setting is an error, as it is there. Null is the same as absent.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from proxy.settings import is_uuid

_MOST_FIELDS: Final = 100


def _uuid(text: str) -> str:
    if not is_uuid(text):
        raise ValueError("expected a uuid")
    return text


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

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


class NamedService(BaseModel):
    """The part of a `PUT` that says how to read the rest."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    service: str


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
