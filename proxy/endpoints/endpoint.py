"""A named endpoint: a service, a model, credentials, a rate limit and default settings, bound to a name once."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from proxy.wire.openai import ChatRequest

ServiceName = Literal["narrative", "anthropic"]
TaskType = Literal["completion", "chat_completion"]


class TaskDefaults(BaseModel):
    """What a request takes that does not say otherwise. None says nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None


class Endpoint(BaseModel):
    """What is stored of an endpoint.

    Attributes:
        id: the name that clients use, also as a model's name.
        model_id: the service's name for the model.
        sealed_key: the service's credential, encrypted; None is the proxy's own.
        data_plane_id: where its Narrative jobs run; None is the caller's.
        requests_per_minute: for all callers together; None is no limit.
        fallback: a model or endpoint that answers while this one's service is down.
        created_at: seconds since 1970 (UTC).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    task_type: TaskType
    service: ServiceName
    model_id: str
    sealed_key: str | None = None
    data_plane_id: str | None = None
    requests_per_minute: int | None = None
    defaults: TaskDefaults = TaskDefaults()
    fallback: str | None = None
    created_at: int = 0

    def request_for(self, request: ChatRequest) -> ChatRequest:
        """A client's request as the service should have it: its model, and the defaults where the client says nothing.

        Of temperature and top_p one is to be given, not both: either one of the client's keeps both defaults out.
        """
        changed: dict[str, object] = {"model": self.model_id}
        defaults = self.defaults
        if request.max_tokens is None and request.max_completion_tokens is None:
            changed["max_tokens"] = defaults.max_tokens
        if request.temperature is None and request.top_p is None:
            changed["temperature"], changed["top_p"] = defaults.temperature, defaults.top_p
        if defaults.top_k is not None and (request.model_extra or {}).get("top_k") is None:
            changed["top_k"] = defaults.top_k
        return request.model_copy(update=changed)
