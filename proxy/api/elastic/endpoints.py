"""Endpoints of Elastic's inference API: who may use and change them, and the routes that do. Source: contract `elastic-inference.md`."""

import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from proxy.access.authentication import Caller, is_loopback, presented_keys
from proxy.api.elastic.codec import decode_endpoint, encode_endpoint, exists_already
from proxy.api.http.requests import ApiServices, read_object
from proxy.api.http.responses import StreamEncoder, json_response
from proxy.errors import InvalidApiKey, InvalidRequest, ModelNotFound, PermissionDenied, UpstreamError
from proxy.inference.endpoints import Endpoint, ServiceName
from proxy.inference.request import Request as InferenceRequest

_REFUSALS: Final = frozenset(
    {"narrative_unauthorized", "narrative_rejected", "anthropic_rejected", "endpoint_unauthorized"}
)

Verify = Callable[[Endpoint, str | None], Awaitable[None]]
"""(endpoint, its credential) → nothing, when its service accepts the credential. Raises ProxyError."""
DecodeChat = Callable[[dict[str, Any], int], tuple[InferenceRequest, StreamEncoder, str]]
"""(an OpenAI chat request's body, its bytes) → the request, OpenAI's encoder of its stream, a digest of the body. Raises InvalidRequest."""


@dataclass(frozen=True, slots=True)
class ElasticServices(ApiServices):
    """What the routes work with in addition; `request.state.elastic`.

    Attributes:
        decode_chat: decodes the bodies of chat completions.
        verify: a small call to each service.
        own_token: whether the proxy has a Narrative token for endpoints that bring none.
        own_plane: where the admin's own jobs run.
    """

    decode_chat: DecodeChat
    verify: Mapping[ServiceName, Verify]
    own_token: bool
    own_plane: str | None


# ---------------------------------------------------------------- who may do what


async def _caller(services: ElasticServices, headers: Mapping[str, str]) -> Caller:
    """The caller behind a request's headers; the admin may do all that clients may.

    Raises:
        InvalidApiKey: no key, or not a known one.
        PermissionDenied: its token is passed through to Narrative, and gives no access to endpoints.
    """
    if _is_admin(services, headers):
        return Caller(None, services.own_plane, id="admin")
    caller = await services.authenticator.authenticate(headers)
    if not caller.endpoints:
        raise PermissionDenied("Inference endpoints need one of the proxy's own keys.")
    return caller


async def _check_admin(services: ElasticServices, headers: Mapping[str, str]) -> None:
    """Raises InvalidApiKey or PermissionDenied when the caller may not create or delete endpoints.

    On a loopback address clients may act as admins while there is no admin key.
    """
    if _is_admin(services, headers):
        return
    await _caller(services, headers)
    admin_key = services.settings.elastic.admin_key
    if admin_key is not None or not is_loopback(services.settings.server.host):
        what = "the admin key" if admin_key is not None else "an admin key here: set PROXY_ADMIN_KEY"
        raise PermissionDenied(f"Creating and deleting inference endpoints needs {what}.")


def _is_admin(services: ElasticServices, headers: Mapping[str, str]) -> bool:
    admin_key = services.settings.elastic.admin_key
    expected = b"" if admin_key is None else admin_key.get_secret_value().encode()
    return bool(expected) and any(hmac.compare_digest(key.encode(), expected) for key in presented_keys(headers))


async def inference_call(request: Request, services: ElasticServices) -> tuple[Caller, str]:
    """Who calls which endpoint. Both task types generate text: either URL serves an endpoint of either."""
    caller = await _caller(services, request.headers)
    inference_id, task_type = _named(request)
    if task_type not in (None, "completion", "chat_completion"):
        raise InvalidRequest(
            f"Task type [{task_type[:40]}] is not served; expected completion or chat_completion.", param="task_type"
        )
    _check_access(inference_id, caller)
    await _find(services, inference_id)
    return caller, inference_id


def _check_access(inference_id: str, caller: Caller) -> None:
    """Raises PermissionDenied, before anything reveals whether there is such an endpoint."""
    if not caller.may_use({inference_id}):
        raise PermissionDenied(f"This API key has no access to the inference endpoint [{inference_id[:100]}].")


async def _find(services: ElasticServices, inference_id: str, task_type: str | None = None) -> Endpoint:
    """Raises ModelNotFound, or InvalidRequest where the endpoint is of another type than the URL says."""
    endpoint = await services.endpoints.find(inference_id)
    if endpoint is None:
        raise ModelNotFound(f"Inference endpoint not found [{inference_id[:100]}]")
    if task_type not in (None, endpoint.task_type):
        raise InvalidRequest(
            f"Requested task type [{task_type[:40]}] does not match the inference endpoint's task type [{endpoint.task_type}].",
            param="task_type",
        )
    return endpoint


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params.get("inference_id", "_all"), request.path_params.get("task_type")


# ---------------------------------------------------------------- endpoints


async def get_endpoints(request: Request, services: ElasticServices) -> Response:
    """One endpoint by its id; or all that the caller may use, those of a task type where the URL names one."""
    caller = await _caller(services, request.headers)
    inference_id, task_type = _named(request)
    if inference_id != "_all":
        _check_access(inference_id, caller)
        found = [await _find(services, inference_id, task_type)]
    else:
        found = [
            endpoint
            for endpoint in await services.endpoints.all()
            if caller.may_use_endpoint(endpoint.id) and task_type in (None, endpoint.task_type)
        ]
    return json_response({"endpoints": [encode_endpoint(endpoint) for endpoint in found]})


async def put_endpoint(request: Request, services: ElasticServices) -> Response:
    """Create an endpoint: nothing is stored before its credentials were seen to work."""
    await _check_admin(services, request.headers)
    inference_id, task_type = _named(request)
    endpoint, key = await read_object(
        request,
        lambda body, _: decode_endpoint(
            task_type or "completion", inference_id, body, services.catalog, now=int(time.time())
        ),
        services.settings.server,
    )
    if endpoint.service == "narrative" and key is None and not services.own_token:
        raise InvalidRequest("Invalid `service_settings.api_key`: it is required.", param="service_settings.api_key")
    if await services.endpoints.find(inference_id):
        raise exists_already(inference_id)
    fallback, param = endpoint.fallback, "service_settings.fallback"
    if fallback is not None and (fallback == inference_id or not await services.endpoints.find(fallback)):
        try:
            services.catalog.match(fallback)
        except ModelNotFound:
            message = f"Invalid `{param}`: there is no model and no other inference endpoint [{fallback[:100]}]."
            raise InvalidRequest(message, param=param) from None
    if services.settings.elastic.verify_on_create:
        # What is wrong with the credentials is the caller's to correct; that the service is down is not.
        try:
            await services.verify[endpoint.service](endpoint, key)
        except (InvalidRequest, InvalidApiKey, PermissionDenied, UpstreamError) as error:
            if isinstance(error, UpstreamError) and error.code not in _REFUSALS:
                raise
            message = (
                "Could not complete inference endpoint creation, as the validation call to the service failed: "
                f"{error.message}"
            )
            raise InvalidRequest(message, param="service_settings") from error
    if not await services.endpoints.add(endpoint, key):
        raise exists_already(inference_id)
    return json_response(encode_endpoint(endpoint))


async def delete_endpoint(request: Request, services: ElasticServices) -> Response:
    """Delete an endpoint and its credential; `dry_run` only looks whether it is there."""
    await _check_admin(services, request.headers)
    inference_id, task_type = _named(request)
    await _find(services, inference_id, task_type)
    if request.query_params.get("dry_run") in ("true", ""):
        return json_response({"acknowledged": False})
    await services.endpoints.remove(inference_id)
    return json_response({"acknowledged": True})
