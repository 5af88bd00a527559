"""Named endpoints as clients write and read them: bodies → endpoints → responses. No I/O."""

import re
from collections.abc import Mapping
from typing import Any, Final

from proxy.api.elastic.errors import ALREADY_EXISTS
from proxy.api.elastic.types import (
    EndpointOut,
    NamedService,
    NarrativeSettings,
    PutAnthropic,
    PutNarrative,
    ServiceSettingsOut,
)
from proxy.api.http.bodies import validated
from proxy.catalog import Catalog
from proxy.errors import InvalidRequest, ModelNotFound
from proxy.inference.endpoints import Endpoint, ServiceName, TaskDefaults, TaskType

ANTHROPIC_REQUESTS_PER_MINUTE: Final = 50
_ID: Final = re.compile(r"\A[a-z0-9](?:[a-z0-9_-]{0,98}[a-z0-9])?\Z")
_TASK_TYPES: Final[Mapping[ServiceName, tuple[TaskType, ...]]] = {
    "narrative": ("completion", "chat_completion"),
    "anthropic": ("completion",),
}


def decode_endpoint(
    task_type: str, inference_id: str, body: Mapping[str, Any], catalog: Catalog, *, now: int
) -> tuple[Endpoint, str | None]:
    """The endpoint that a `PUT` asks for, and its credential in the clear.

    Raises:
        InvalidRequest: anything about it is wrong.
    """
    check_id(inference_id, catalog)
    service = validated(NamedService, body).service
    put: PutNarrative | PutAnthropic
    match service:
        case "narrative":
            put = validated(PutNarrative, body)
            _check_model(put.service_settings.model_id, catalog)
        case "anthropic":
            put = validated(PutAnthropic, body)
        case _:
            expected = ", ".join(_TASK_TYPES)
            raise InvalidRequest(f"Unknown service [{service[:40]}]; expected one of {expected}.", param="service")
    settings, allowed = put.service_settings, _TASK_TYPES[put.service]
    if task_type not in allowed:
        raise InvalidRequest(
            f"The [{service}] service does not support task type [{task_type[:40]}]; expected one of {', '.join(allowed)}.",
            param="task_type",
        )
    key = settings.api_key
    if key is not None and not (key.isascii() and key.isprintable()):
        param = "service_settings.api_key"
        raise InvalidRequest(f"Invalid `{param}`: it holds characters that no header can carry.", param=param)
    usual = ANTHROPIC_REQUESTS_PER_MINUTE if put.service == "anthropic" else None
    endpoint = Endpoint(
        id=inference_id,
        task_type=task_type,
        service=put.service,
        model_id=settings.model_id,
        data_plane_id=settings.data_plane_id if isinstance(settings, NarrativeSettings) else None,
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
    if inference_id in catalog.by_name:
        raise InvalidRequest(f"[{inference_id}] is the name of a model here.", param="inference_id")


def encode_endpoint(endpoint: Endpoint) -> EndpointOut:
    """An endpoint without its credential."""
    settings: ServiceSettingsOut = {"model_id": endpoint.model_id}
    if endpoint.data_plane_id is not None:
        settings["data_plane_id"] = endpoint.data_plane_id
    if endpoint.requests_per_minute is not None:
        settings["rate_limit"] = {"requests_per_minute": endpoint.requests_per_minute}
    if endpoint.fallback is not None:
        settings["fallback"] = endpoint.fallback
    return {
        "inference_id": endpoint.id,
        "task_type": endpoint.task_type,
        "service": endpoint.service,
        "service_settings": settings,
        "task_settings": endpoint.defaults.model_dump(exclude_none=True),
    }


def check_task_type(endpoint: Endpoint, task_type: str | None) -> None:
    """Raises InvalidRequest: the endpoint is of another type than the URL says."""
    if task_type is not None and task_type != endpoint.task_type:
        raise InvalidRequest(
            f"Requested task type [{task_type[:40]}] does not match the inference endpoint's task type [{endpoint.task_type}].",
            param="task_type",
        )


def not_found(inference_id: str) -> ModelNotFound:
    return ModelNotFound(f"Inference endpoint not found [{inference_id[:100]}]")


def exists_already(inference_id: str) -> InvalidRequest:
    return InvalidRequest(f"Inference endpoint [{inference_id}] already exists", code=ALREADY_EXISTS)


def _check_model(name: str, catalog: Catalog) -> None:
    if name not in catalog.by_name:
        offered = ", ".join(card.id for card in catalog.cards)
        raise InvalidRequest(
            f"Unknown model [{name[:100]}]; expected one of {offered}.", param="service_settings.model_id"
        )
