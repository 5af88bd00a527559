"""Models as data: the names clients use → a card that says what is known of the model.

The table is `config/models.toml`; no model is named in code.
"""

import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.errors import ModelNotFound

ToolEncoding = Literal["properties", "any_of", "text"]


class CatalogError(Exception):
    """The model table cannot be used; the message says what is wrong in it."""


class ModelCard(BaseModel):
    """What is known of one model. The fields are those of a `[[models]]` table, described at the top of `config/models.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    names: tuple[str, ...] = Field(min_length=1)
    max_tokens: int = Field(ge=1)
    owned_by: str = "narrative"
    tool_encoding: ToolEncoding = "properties"
    schema_keywords: Literal["documented", "full"] = "documented"
    schema_bounds: bool = True
    max_schema_bytes: int = Field(default=100_000, ge=1)
    forward_stop: bool = False
    tool_history: Literal["blocks", "text"] = "blocks"
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    fallback: str | None = Field(default=None, min_length=1)

    @property
    def public_name(self) -> str:
        """The name that `GET /v1/models` lists."""
        return self.names[0]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[ModelCard, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Catalog:
    """All cards, and which name means which."""

    cards: tuple[ModelCard, ...]
    by_name: Mapping[str, ModelCard]

    def find(self, name: str) -> ModelCard:
        """The card of a public name, an alias or a Narrative id.

        Raises:
            ModelNotFound: no card has that name.
        """
        card = self.by_name.get(name)
        if card is None:
            offered = ", ".join(card.public_name for card in self.cards)
            raise ModelNotFound(f"The model `{name[:100]}` does not exist here. Available: {offered}.", param="model")
        return card


def make_catalog(cards: tuple[ModelCard, ...]) -> Catalog:
    """Index cards by every name they answer to.

    Raises:
        CatalogError: two cards claim one name.
    """
    claims = Counter(name for card in cards for name in {card.id, *card.names})
    if twice := [name for name, count in claims.items() if count > 1]:
        raise CatalogError(f"more than one model claims the name {', '.join(sorted(twice))}")
    return Catalog(cards, {name: card for card in cards for name in (card.id, *card.names)})


def load_catalog(path: Path) -> Catalog:
    """Read the model table.

    Raises:
        CatalogError: the file cannot be read, or is not as described at its top.
    """
    try:
        table = _Table.model_validate(tomllib.loads(path.read_text("utf-8")))
        return make_catalog(table.models)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogError(f"{path}: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise CatalogError(f"{path}: {faults}") from error
    except CatalogError as error:
        raise CatalogError(f"{path}: {error}") from error
