"""Models as data: the names clients use → a card that says what is known of the model.

The table is `config/models.toml`; no model is named in code.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.errors import ModelNotFound
from proxy.settings import config_folder

ToolEncoding = Literal["properties", "any_of", "text"]
_MAX_NAME: Final = 200
_BEDROCK_VERSION: Final = re.compile(r"(?:-v?[0-9]{1,2}:[0-9]{1,2}|-v[0-9]{1,2})\Z")
_SNAPSHOT: Final = re.compile(r"(?:[-@]20[0-9]{6}|-20[0-9]{2}-[0-9]{2}-[0-9]{2}|[-@]latest|\[1m\])\Z")


class CatalogError(Exception):
    """The model table cannot be used; the message says what is wrong in it."""


class ModelCard(BaseModel):
    """What is known of one model. The fields are those of a `[[models]]` table, described at the top of `config/models.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    names: tuple[str, ...] = Field(min_length=1)
    replaces: tuple[str, ...] = ()
    max_tokens: int = Field(ge=1)
    max_output_tokens: int | None = Field(default=None, ge=1)
    context_tokens: int | None = Field(default=None, ge=1)
    sampling: Literal["both", "one", "none"] = "both"
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

    prefixes: tuple[str, ...] = ()
    models: tuple[ModelCard, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Match:
    """The card that a name leads to. `adjusted` says, as a sentence for the caller, when it is another model than the one asked for."""

    card: ModelCard
    adjusted: str = ""


class Catalog:
    """All cards, and which name means which. `prefixes`, such as providers and regions, may stand before a name; the model named
    `default_model` serves unknown names.

    Raises CatalogError: two cards claim one name, or there is no model of the default's name.
    """

    def __init__(
        self, cards: tuple[ModelCard, ...], prefixes: tuple[str, ...] = (), *, default_model: str | None = None
    ) -> None:
        self.cards = cards
        self.names = frozenset(name for card in cards for name in (card.id, *card.names))
        """Exact public names, aliases and ids."""
        self.default: Match | None = None
        """Serves unknown names."""
        self._prefixes = tuple(prefix.lower() for prefix in prefixes if prefix)
        # The names, and those of the models that cards replace, all in lower case.
        self._matches: dict[str, Match] = {}
        for card in cards:
            successor = f"model: served by {card.public_name}, the successor of the one asked for"
            names = {name.lower(): Match(card, successor) for name in card.replaces}
            names |= {name.lower(): Match(card) for name in (card.id, *card.names)}
            if twice := sorted(names.keys() & self._matches.keys()):
                raise CatalogError(f"more than one model claims the name {', '.join(twice)}")
            self._matches |= names
        if default_model is not None:
            try:
                card = self.match(default_model).card
            except ModelNotFound as error:
                raise CatalogError(f"chat.default_model: {error.message}") from error
            self.default = Match(card, f"model: the name is unknown; served by the default, {card.public_name}")

    def match(self, name: str) -> Match:
        """The card of a public name, an alias or a Narrative id; also in another letter case, with prefixes, as a Bedrock id or a dated
        snapshot, or as the name of a model that a card replaces. Raises ModelNotFound: no card has it, and there is no default.
        """
        for spelling in self._spellings(name):
            if spelling in self._matches:
                return self._matches[spelling]
        if self.default is None:
            offered = ", ".join(card.public_name for card in self.cards)
            raise ModelNotFound(f"The model `{name[:100]}` does not exist here. Available: {offered}.", param="model")
        return self.default

    def _spellings(self, name: str) -> Iterator[str]:
        """The name with less and less around it: an ARN's path, prefixes, the version of a Bedrock id, a snapshot's date."""
        if len(name) > _MAX_NAME:
            return
        name = name.strip().lower()
        yield name
        if name.startswith("arn:"):
            name = name.rpartition("/")[2]
        for _ in range(4):
            prefix = next((prefix for prefix in self._prefixes if name.startswith(prefix)), None)
            if prefix is None:
                break
            name = name.removeprefix(prefix)
            yield name
        for suffix in (_BEDROCK_VERSION, _SNAPSHOT):
            name = suffix.sub("", name)
            yield name


def load_catalog(path: Path | None = None, *, default_model: str | None = None) -> Catalog:
    """Read a model table, or the shipped one; the default model serves unknown names.

    Raises CatalogError: the file cannot be read, is not as described at its top, or the default is not in it.
    """
    path = path or config_folder() / "models.toml"
    try:
        table = _Table.model_validate(tomllib.loads(path.read_text("utf-8")))
        return Catalog(table.models, table.prefixes, default_model=default_model)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, CatalogError) as error:
        raise CatalogError(f"{path}: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise CatalogError(f"{path}: {faults}") from error
