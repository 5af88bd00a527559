"""The model table: names → cards."""

from pathlib import Path

import pytest

from proxy.catalog import CatalogError, load_catalog
from proxy.errors import ModelNotFound
from proxy.settings import config_folder
from tests.contract import MODELS

SHIPPED = load_catalog(config_folder() / "models.toml")


def load(folder: Path, text: str):
    file = folder / "models.toml"
    file.write_text(text, "utf-8")
    return load_catalog(file)


def test_every_narrative_model_is_offered_and_no_other() -> None:
    assert {card.id for card in SHIPPED.cards} == MODELS


@pytest.mark.parametrize(
    ("name", "id_", "max_tokens"),
    [
        ("claude-4-5-sonnet", "anthropic.claude-sonnet-4.5", 8192),
        ("claude-sonnet-4-5", "anthropic.claude-sonnet-4.5", 8192),
        ("claude-4-5-haiku", "anthropic.claude-haiku-4.5", 4096),
        ("claude-4-6-opus", "anthropic.claude-opus-4.6", 8192),
        ("gpt-4.1", "openai.gpt-4.1", 8192),
        ("o4-mini", "openai.o4-mini", 16384),
        ("gpt-oss-120b", "openai.gpt-oss-120b", 8192),
        ("anthropic.claude-opus-4.5", "anthropic.claude-opus-4.5", 8192),
    ],
)
def test_public_names_aliases_and_narrative_ids_find_their_card(name: str, id_: str, max_tokens: int) -> None:
    card = SHIPPED.find(name)
    assert (card.id, card.max_tokens) == (id_, max_tokens)


def test_an_unknown_model_is_a_404_that_names_the_field() -> None:
    with pytest.raises(ModelNotFound) as caught:
        SHIPPED.find("gpt-99")
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")


def test_an_operator_adds_a_model_by_data_alone(tmp_path: Path) -> None:
    catalog = load(
        tmp_path, '[[models]]\nid = "new.model-1"\nnames = ["new"]\nmax_tokens = 10\ntool_encoding = "any_of"\n'
    )
    assert catalog.find("new").tool_encoding == "any_of"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("models = []", "models"),
        ('[[models]]\nid = "a"\nnames = ["a"]\nmax_tokens = 0', "max_tokens"),
        ('[[models]]\nid = "a"\nnames = ["a"]\nmax_tokens = 1\nmax_tokns = 1', "max_tokns"),
        (
            '[[models]]\nid = "a"\nnames = ["x"]\nmax_tokens = 1\n[[models]]\nid = "b"\nnames = ["x"]\nmax_tokens = 1',
            "name x",
        ),
        ("[[", "models.toml"),
    ],
)
def test_a_table_that_cannot_be_used_says_what_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(CatalogError, match=told):
        load(tmp_path, text)
