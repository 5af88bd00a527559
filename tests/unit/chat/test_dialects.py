"""What is learned of a model while serving."""

from proxy.catalog import ModelCard
from proxy.chat.dialects import Dialects, simpler
from proxy.failures import Cause

CARD = ModelCard(id="m", names=("m",), max_tokens=1)


def test_each_refusal_has_one_simpler_form_and_then_none() -> None:
    plain = simpler(CARD, Cause.INVALID_SCHEMA)
    assert plain
    assert plain.tool_encoding == "text"
    assert simpler(plain, Cause.INVALID_SCHEMA) is None
    told = simpler(CARD, Cause.TOOL_BLOCKS)
    assert told
    assert told.tool_history == "text"
    assert simpler(told, Cause.TOOL_BLOCKS) is None
    assert simpler(CARD, Cause.OTHER) is None


def test_what_worked_is_remembered_for_a_while() -> None:
    now = [0.0]
    dialects = Dialects(remember_s=10, clock=lambda: now[0])
    plain = simpler(CARD, Cause.INVALID_SCHEMA)
    assert plain
    dialects.learn(plain)
    assert dialects.card(CARD) is plain
    now[0] = 10
    assert dialects.card(CARD) is CARD
