"""`GET /v1/models` and `GET /v1/models/{id}`: the catalog as OpenAI clients list it."""

from proxy.catalog import Catalog, ModelCard
from proxy.wire.openai import ModelInfo, ModelList


def model_list(catalog: Catalog) -> ModelList:
    """Every model once, under its public name."""
    return {"object": "list", "data": [model_info(card.public_name, card) for card in catalog.cards]}


def model_info(name: str, card: ModelCard) -> ModelInfo:
    """One model under the name that was asked for. `created` is not known, and a fixed time serves clients that sort by it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": card.owned_by}
