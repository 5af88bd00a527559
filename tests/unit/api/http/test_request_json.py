"""JSON of requests and responses: counted before it is parsed, digested alike however it is written."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.http.requests import canonical_digest, has_more_values, parse_object
from proxy.api.http.responses import json_line
from proxy.errors import InvalidRequest

TEXT = st.text() | st.sampled_from(['"', "\\", '\\"', ",", "[", "{", '",', "\\\\"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=40,
)


def separators(value: Any) -> int:
    """The commas and opening brackets of a value's JSON."""
    match value:
        case dict():
            return 1 + max(len(value) - 1, 0) + sum(map(separators, value.values()))
        case list():
            return 1 + max(len(value) - 1, 0) + sum(map(separators, value))
        case _:
            return 0


@given(JSON, st.booleans())
def test_values_are_counted_exactly_whatever_is_in_strings(value: Any, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    count = separators(value)
    assert not has_more_values(body, max(count, 1))
    assert count == 0 or has_more_values(body, count - 1)


def test_a_body_of_strings_is_counted_without_splitting_it() -> None:
    assert has_more_values(b"[" + b'"",' * 1_000_000 + b'""]', 100_000)
    assert not has_more_values(json.dumps(["," * 1_000_000]).encode(), 1)


@given(st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), st.integers() | st.booleans(), min_size=2))
def test_the_order_of_members_does_not_change_a_digest_and_their_values_do(value: dict[str, Any]) -> None:
    backwards = dict(reversed(value.items()))
    assert canonical_digest(value) == canonical_digest(backwards)
    first = next(iter(value))
    assert canonical_digest({**value, first: "other"}) != canonical_digest(value)


def test_integers_of_any_size_have_a_digest() -> None:
    assert canonical_digest({"a": 2**70, "b": 1}) == canonical_digest({"b": 1, "a": 2**70})


@pytest.mark.parametrize(("depth", "accepted"), [(200, True), (202, False)])
def test_nesting_is_bounded(depth: int, accepted: bool) -> None:
    body = b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    if accepted:
        assert parse_object(body, max_values=1000)
    else:
        with pytest.raises(InvalidRequest, match="more than 200 levels"):
            parse_object(body, max_values=1000)


@pytest.mark.parametrize(
    "body", [rb'["\ud800", NaN]', rb'["\ud800", ' + b"[" * 100_000, rb'"\ud8', rb'"\u12"', rb'["\ud800"']
)
def test_a_lone_surrogate_excuses_no_other_error(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_object(body, max_values=1_000_000)


def test_a_line_has_no_character_that_ends_lines() -> None:
    assert json_line("a\u2028b\u2029c\u0085d\n\r").decode().splitlines() == [r'"a\u2028b\u2029c\u0085d\n\r"']
