"""The tree of errors: each is complete, and rendered in OpenAI's shape."""

import json

import pytest

from proxy.api.openai.routes import error_response
from proxy.backends.narrative.failures import Cause, cause_of, error_for
from proxy.errors import ProxyError, error_headers, redact


def tree(kind: type[ProxyError]) -> list[type[ProxyError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in tree(child))]


@pytest.mark.parametrize("kind", tree(ProxyError)[1:], ids=lambda kind: kind.__name__)
def test_each_error_has_its_status_and_is_rendered_whole(kind: type[ProxyError]) -> None:
    response = error_response(kind("What went wrong.", param="p", code="c"))
    assert response.status_code == kind.status >= 400
    assert json.loads(bytes(response.body)) == {
        "error": {"message": "What went wrong.", "type": kind.type, "param": "p", "code": "c"}
    }


def test_every_error_tells_whether_a_repeat_can_help() -> None:
    assert error_headers(ProxyError("x")) == {"x-should-retry": "false"}
    for given, header in ((0.1, "1"), (7.2, "8"), (9999, "60")):
        assert error_headers(ProxyError("x", retry_after=given)) == {"x-should-retry": "true", "retry-after": header}


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("Invalid schema", Cause.INVALID_SCHEMA),
        ("Model unavailable", Cause.MODEL_UNAVAILABLE),
        ("Token limit exceeded", Cause.TOKEN_LIMIT),
        ("Invalid data plane", Cause.INVALID_DATA_PLANE),
        ("This model's maximum context length is 200000 tokens", Cause.CONTEXT_LENGTH),
        ("The response would exceed max_tokens", Cause.TOKEN_LIMIT),
        ("output_format_schema: keyword anyOf is not supported", Cause.INVALID_SCHEMA),
        ("tool_use blocks are not supported", Cause.TOOL_BLOCKS),
        ("The toolConfig field must be defined", Cause.TOOL_BLOCKS),
        ("Content was filtered: content policy", Cause.CONTENT_FILTER),
        ("job 429 went wrong", Cause.OTHER),
        ("", Cause.OTHER),
    ],
)
def test_narratives_words_name_their_cause(words: str, cause: Cause) -> None:
    assert cause_of(words) is cause


def test_an_error_made_of_narratives_words_invites_no_repeat() -> None:
    for words in ("Invalid schema", "too long prompt: prompt is too long", "whatever", ""):
        assert error_for(words, code="narrative_rejected").retry_after is None


@pytest.mark.parametrize(
    ("text", "keys", "shown"),
    [
        ("key 123456789012 is bad", ["123456789012"], "key [redacted] is bad"),
        ("key 12345678901 is bad", ["12345678901"], "key 12345678901 is bad"),
        ("malformed sandbox directive", ["sandbox"], "malformed sandbox directive"),
        ("a a", ["", "a"], "a a"),
        ("Incorrect API key sk-proj-0123456789: see the docs", [], "Incorrect API key [redacted]: see the docs"),
        ("task-management np-0123 sk-12345678", [], "task-management np-0123 sk-12345678"),
    ],
)
def test_keys_of_12_characters_and_more_are_redacted(text: str, keys: list[str], shown: str) -> None:
    assert redact(text, keys) == shown
