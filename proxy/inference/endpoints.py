"""A named endpoint: a service, a model, credentials, a rate limit and default settings, bound to a name once."""

from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict

from proxy.inference.request import Request

ServiceName = Literal["narrative", "anthropic"]
TaskType = Literal["completion", "chat_completion"]


class TaskDefaults(BaseModel):
    """Settings of requests that do not name their own; None leaves a setting to the model."""

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
        fallback: a model or endpoint that serves requests while this one's service is down.
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

    def request_for(self, request: Request) -> Request:
        """A client's request for the service: with the service's model, and the defaults where the client names nothing.

        Only one of temperature and top_p should be given: either one of the client's keeps both defaults out.
        """
        defaults, sampling = self.defaults, request.sampling
        if sampling.temperature is None and sampling.top_p is None:
            sampling = replace(sampling, temperature=defaults.temperature, top_p=defaults.top_p)
        if sampling.top_k is None:
            sampling = replace(sampling, top_k=defaults.top_k)
        limit = defaults.max_tokens if request.max_tokens is None else request.max_tokens
        return replace(request, model=self.model_id, max_tokens=limit, sampling=sampling)
