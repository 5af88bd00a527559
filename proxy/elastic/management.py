"""Endpoints made, shown and removed: bodies → endpoints → answers. No I/O."""

import re
from typing import get_args

from proxy.api.http.bodies import parse_body
from proxy.catalog import Catalog
from proxy.elastic.errors import ALREADY_EXISTS
from proxy.endpoints.endpoint import Endpoint, ServiceName, TaskDefaults, TaskType
from proxy.errors import InvalidRequest, ModelNotFound
from proxy.setting_types import is_uuid
from proxy.wire.elastic import EndpointOut, NamedService, PutAnthropic, PutNarrative, ServiceSettingsOut, TaskSettings

ANTHROPIC_REQUESTS_PER_MINUTE = 50
_ID = re.compile(r"\A[a-z0-9](?:[a-z0-9_-]{0,98}[a-z0-9])?\Z")
_TASK_TYPES: dict[ServiceName, tuple[TaskType, ...]] = {
    "narrative": ("completion", "chat_completion"),
    "anthropic": ("completion",),
}


def read_endpoint(
    task_type: str, inference_id: str, body: bytes, catalog: Catalog, *, now: int
) -> tuple[Endpoint, str | None]:
    """The endpoint that a `PUT` asks for, and its credential in the clear.

    Raises:
        InvalidRequest: anything about it is wrong.
    """
    check_id(inference_id, catalog)
    service = parse_body(NamedService, body).service
    match service:
        case "narrative":
            endpoint, key = _narrative(inference_id, parse_body(PutNarrative, body), catalog)
        case "anthropic":
            endpoint, key = _anthropic(inference_id, parse_body(PutAnthropic, body))
        case _:
            expected = ", ".join(get_args(ServiceName))
            raise InvalidRequest(f"Unknown service [{service[:40]}]; expected one of {expected}.", param="service")
    allowed = _TASK_TYPES[endpoint.service]
    if task_type not in allowed:
        raise InvalidRequest(
            f"The [{service}] service does not support task type [{task_type[:40]}]; expected one of {', '.join(allowed)}.",
            param="task_type",
        )
    if key is not None and not (key.isascii() and key.isprintable()):
        param = "service_settings.api_key"
        raise InvalidRequest(f"Invalid `{param}`: it holds characters that no header can carry.", param=param)
    return endpoint.model_copy(update={"task_type": task_type, "created_at": now}), key


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


def check_fallback(name: str, found: Endpoint | None, inference_id: str, catalog: Catalog) -> None:
    """Raises InvalidRequest: the fallback is neither a model nor another endpoint.

    Args:
        found: the endpoint of that name, if there is one.
    """
    if name not in catalog.by_name and (found is None or name == inference_id):
        param = "service_settings.fallback"
        message = f"Invalid `{param}`: there is no model and no other inference endpoint [{name[:100]}]."
        raise InvalidRequest(message, param=param)


def show(endpoint: Endpoint) -> EndpointOut:
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
        "task_settings": endpoint.defaults.model_dump(exclude_none=True),  # type: ignore[typeddict-item]
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


def _narrative(inference_id: str, put: PutNarrative, catalog: Catalog) -> tuple[Endpoint, str | None]:
    settings = put.service_settings
    if settings.model_id not in catalog.by_name:
        offered = ", ".join(card.id for card in catalog.cards)
        raise InvalidRequest(
            f"Unknown model [{settings.model_id[:100]}]; expected one of {offered}.", param="service_settings.model_id"
        )
    if settings.data_plane_id is not None and not is_uuid(settings.data_plane_id):
        param = "service_settings.data_plane_id"
        raise InvalidRequest(f"Invalid `{param}`: expected a uuid.", param=param)
    endpoint = Endpoint(
        id=inference_id,
        task_type="completion",
        service="narrative",
        model_id=settings.model_id,
        data_plane_id=settings.data_plane_id,
        requests_per_minute=settings.rate_limit.requests_per_minute if settings.rate_limit else None,
        defaults=_defaults(put.task_settings),
        fallback=settings.fallback,
    )
    return endpoint, settings.api_key


def _anthropic(inference_id: str, put: PutAnthropic) -> tuple[Endpoint, str]:
    settings = put.service_settings
    limit = settings.rate_limit
    endpoint = Endpoint(
        id=inference_id,
        task_type="completion",
        service="anthropic",
        model_id=settings.model_id,
        requests_per_minute=limit.requests_per_minute if limit else ANTHROPIC_REQUESTS_PER_MINUTE,
        defaults=_defaults(put.task_settings),
        fallback=settings.fallback,
    )
    return endpoint, settings.api_key


def _defaults(settings: TaskSettings | None) -> TaskDefaults:
    return TaskDefaults() if settings is None else TaskDefaults(**settings.model_dump())
