"""The model table: names → cards."""

from pathlib import Path

import pytest

from proxy.catalog import CatalogError, load_catalog
from proxy.errors import ModelNotFound
from tests.contract import MODELS

SHIPPED = load_catalog()


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
    card = SHIPPED.match(name).card
    assert (card.id, card.max_tokens) == (id_, max_tokens)


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("Claude-4-5-HAIKU", "anthropic.claude-haiku-4.5"),
        (" claude-4-5-haiku ", "anthropic.claude-haiku-4.5"),
        ("anthropic/claude-haiku-4.5", "anthropic.claude-haiku-4.5"),
        ("openrouter/anthropic/claude-sonnet-4.6", "anthropic.claude-sonnet-4.6"),
        ("OpenAI/GPT-4.1", "openai.gpt-4.1"),
        ("gpt-4.1-2025-04-14", "openai.gpt-4.1"),
        ("openai.gpt-oss-120b-1:0", "openai.gpt-oss-120b"),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "anthropic.claude-haiku-4.5"),
        ("bedrock/eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic.claude-sonnet-4.5"),
        ("global.anthropic.claude-opus-4-6-v1", "anthropic.claude-opus-4.6"),
        ("claude-sonnet-4-5@20250929", "anthropic.claude-sonnet-4.5"),
        ("claude-opus-4-5-20991231", "anthropic.claude-opus-4.5"),
    ],
)
def test_other_spellings_of_a_name_find_the_same_model(name: str, id_: str) -> None:
    match = SHIPPED.match(name)
    assert (match.card.id, match.adjusted) == (id_, "")


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("claude-4-sonnet", "anthropic.claude-sonnet-4.5"),
        ("claude-3-7-sonnet", "anthropic.claude-sonnet-4.5"),
        ("claude-3-5-haiku", "anthropic.claude-haiku-4.5"),
        ("claude-3-5-sonnet-latest", "anthropic.claude-sonnet-4.5"),
        ("Anthropic/Claude-Opus-4-1", "anthropic.claude-opus-4.5"),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", "anthropic.claude-sonnet-4.5"),
    ],
)
def test_a_retired_model_is_served_by_its_successor_which_is_reported(name: str, id_: str) -> None:
    match = SHIPPED.match(name)
    assert match.card.id == id_
    assert match.card.public_name in match.adjusted
    assert "successor" in match.adjusted


@pytest.mark.parametrize(
    "name",
    [
        "x" * 1_000_000,
        "us." * 100_000 + "claude-4-5-haiku",
        "claude-4-5-haiku" + " " * 1_000,
        "-v1:0",
        "arn:",
        "\0",
        "/",
    ],
)
def test_hostile_names_are_unknown(name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        SHIPPED.match(name)
    assert len(caught.value.message) < 1_000


def test_unknown_names_are_served_by_the_default_model_which_is_reported() -> None:
    catalog = load_catalog(default_model="Claude-4-5-Haiku")
    match = catalog.match("gpt-99")
    assert (match.card.public_name, "claude-4-5-haiku" in match.adjusted) == ("claude-4-5-haiku", True)
    assert catalog.match("gpt-4.1").adjusted == ""
    with pytest.raises(CatalogError, match=r"chat\.default_model"):
        load_catalog(default_model="gpt-99")


def test_an_unknown_model_is_a_404_that_names_the_field() -> None:
    with pytest.raises(ModelNotFound) as caught:
        SHIPPED.match("gpt-99")
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")


def test_an_operator_adds_a_model_by_data_alone(tmp_path: Path) -> None:
    catalog = load(
        tmp_path, '[[models]]\nid = "new.model-1"\nnames = ["new"]\nmax_tokens = 10\ntool_encoding = "any_of"\n'
    )
    assert catalog.match("new").card.tool_encoding == "any_of"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("models = []", "models"),
        ('[[models]]\nid = "a"\nnames = ["a"]\nmax_tokens = 0', "max_tokens"),
        ('[[models]]\nid = "a"\nnames = ["a"]\nmax_tokens = 1\nmax_tokns = 1', "max_tokns"),
        (
            '[[models]]\nid = "a"\nnames = ["x"]\nmax_tokens = 1\n[[models]]\nid = "b"\nnames = ["x"]\nmax_tokens = 1',
            "name x",
        ),
        (
            '[[models]]\nid = "a"\nnames = ["x"]\nmax_tokens = 1\n[[models]]\nid = "b"\nnames = ["y"]\nreplaces = ["X"]\nmax_tokens = 1',
            "name x",
        ),
        ("[[", "models.toml"),
    ],
)
def test_a_table_that_cannot_be_used_says_what_is_wrong(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(CatalogError, match=named):
        load(tmp_path, text)
