"""`GET /v1/models` and `GET /v1/models/{id}`: what the caller may use, of catalog and named endpoints."""

from collections.abc import Iterable

from proxy.access.authentication import Caller
from proxy.catalog import Catalog, ModelCard
from proxy.endpoints.endpoint import Endpoint
from proxy.errors import PermissionDenied
from proxy.wire.openai import ModelInfo, ModelList


def model_list(catalog: Catalog, endpoints: Iterable[Endpoint], caller: Caller) -> ModelList:
    """Every model once, under its public name, then every named endpoint."""
    models = [_of_card(card.public_name, card) for card in catalog.cards if caller.may_use({card.id, *card.names})]
    named = [_of_endpoint(endpoint) for endpoint in endpoints if caller.may_use_endpoint(endpoint.id)]
    return {"object": "list", "data": [*models, *named]}


def model_info(name: str, found: ModelCard | Endpoint | None, catalog: Catalog, caller: Caller) -> ModelInfo:
    """One model under the name that was asked for.

    Raises:
        ModelNotFound: there is none of that name.
        PermissionDenied: the caller may not use it, whether or not there is one.
    """
    names = {found.id, *found.names} if isinstance(found, ModelCard) else {name}
    if not caller.may_use(names):
        raise PermissionDenied(f"This API key has no access to the model `{name[:100]}`.", param="model")
    match found:
        case Endpoint():
            return _of_endpoint(found)
        case _:
            return _of_card(name, catalog.find(name))


def _of_card(name: str, card: ModelCard) -> ModelInfo:
    """`created` is not known, and a fixed time serves clients that sort by it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": card.owned_by}


def _of_endpoint(endpoint: Endpoint) -> ModelInfo:
    return {"id": endpoint.id, "object": "model", "created": endpoint.created_at, "owned_by": endpoint.service}
