"""Requests are cut out of the body of a message batch wherever its chunks end."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.anthropic.batches import RequestSplitter
from proxy.errors import InvalidRequest, RequestTooLarge

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\{}[],:\u2028', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='a"\\{[', max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=3), VALUES, max_size=3)


def split(body: bytes, sizes: list[int]) -> list[Any]:
    splitter, found = RequestSplitter(1_000_000), list[bytes]()
    while body:
        size = sizes.pop() if sizes else len(body)
        found += splitter.feed(body[:size])
        body = body[size:]
    assert splitter.finish() == len(found)
    return [json.loads(text) for text in found]


@given(requests=st.lists(OBJECTS, max_size=5), sizes=st.lists(st.integers(1, 9)), blanks=st.booleans())
def test_the_requests_come_out_as_they_went_in(requests: list[Any], sizes: list[int], blanks: bool) -> None:
    body = {"before": [1, "]"], "requests": requests, "after": {"a": [None, "{"]}}
    assert split(json.dumps(body, indent=2 if blanks else None).encode(), sizes) == requests


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"requests": 1}',
        b'{"requests": [1]}',
        b'{"requests": [0, {}]}',
        b'{"requests": [[{}]]}',
        b'{"other": [{}], "requests": [{}]}',
        b'{"other": [{}], "requests": [0]}',
        b'{"requests": [{}]',
        b'{"requests": [{}]}}',
        b'{"requests": [{} {}]}',
        b"]" * 50,
    ],
)
def test_other_bodies_are_refused(body: bytes) -> None:
    splitter = RequestSplitter(1_000)
    with pytest.raises(InvalidRequest):  # noqa: PT012 - whichever notices
        found = splitter.feed(body)
        assert splitter.finish() == len(found)
        assert not found


def test_what_is_kept_is_bounded() -> None:
    splitter = RequestSplitter(1_000)
    with pytest.raises(RequestTooLarge):
        splitter.feed(b'{"requests": [{"a": "' + b"x" * 2_000)
    splitter = RequestSplitter(1_000)
    with pytest.raises(RequestTooLarge):
        splitter.feed(b'{"other": "' + b"x" * 2_000_000)
