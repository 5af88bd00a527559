"""Narrative's wordings of a failure → its cause and error."""

import re

import pytest

from proxy.backends.narrative.failures import PATTERNS, REJECTED, Cause, cause_of, clean, error_for
from proxy.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PaidFailure,
    PermissionDenied,
    ProxyError,
    RateLimited,
    UpstreamError,
)

# A text for each pattern of the table in its order, and where it was seen.
EXAMPLES = [
    # contract narrative.md, documented causes of failure
    ("Invalid schema", Cause.INVALID_SCHEMA),
    # github.com/anthropics/claude-code/issues/236, github.com/strands-agents/agent-builder/issues/31
    ("ThrottlingException: Too many tokens, please wait before trying again.", Cause.THROTTLED),
    # help.openai.com/en/articles/5955604-how-can-i-so; metricsign.com/errors/snowflake-cortex-quota-exceeded
    (
        "Rate limit reached for gpt-4.1 on tokens per min (TPM): Limit 30000, Used 29000, Requested 4000. Please try again in 6s.",
        Cause.THROTTLED,
    ),
    # github.com/anthropics/claude-code/issues/39745; docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html
    ("overloaded_error: Overloaded", Cause.OVERLOADED),
    # github.com/docker/docker-agent/issues/569, github.com/continuedev/continue/issues/6080
    (
        "input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000, decrease input length and try again",
        Cause.CONTEXT_LENGTH,
    ),
    # github.com/anomalyco/models.dev/pull/1221
    ("prompt is too long: 1000032 tokens > 1000000 maximum", Cause.CONTEXT_LENGTH),
    # github.com/anthropics/claude-code/issues/24451; github.com/aws-samples/bedrock-access-gateway/issues/41
    (
        "max_tokens: 128001 > 64000, which is the maximum allowed number of output tokens for claude-opus-4-5-20251101",
        Cause.MAX_TOKENS,
    ),
    # contract narrative.md, documented causes of failure
    ("Token limit exceeded", Cause.TOKEN_LIMIT),
    # docs.aws.amazon.com/bedrock/latest/userguide/guardrails-how.html
    ("Blocked by guardrail", Cause.CONTENT_FILTER),
    # github.com/skydiscover-ai/skydiscover/issues/15; github.com/egoist/chatwise-releases/issues/940; github.com/lobehub/lobehub/pull/7747
    ("`temperature` and `top_p` cannot both be specified for this model. Please use only one.", Cause.SAMPLING),
    # github.com/langgenius/dify/issues/16421
    ("The toolConfig field must be defined when using toolUse and toolResult content blocks.", Cause.TOOL_BLOCKS),
    # github.com/anthropics/anthropic-sdk-python/issues/1185
    ("The compiled grammar is too large, which would cause performance issues.", Cause.INVALID_SCHEMA),
    # contract narrative.md, documented causes of failure
    ("Model unavailable", Cause.MODEL_UNAVAILABLE),
    # contract narrative.md, documented causes of failure
    ("Invalid data plane", Cause.INVALID_DATA_PLANE),
]
SEEN = [
    (
        "input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000, decrease input length",
        Cause.CONTEXT_LENGTH,
    ),
    (
        "The model returned the following errors: prompt is too long: 200049 tokens > 200000 maximum",
        Cause.CONTEXT_LENGTH,
    ),
    ("Input is too long for requested model.", Cause.CONTEXT_LENGTH),
    ("This model's maximum context length is 8192 tokens. However, you requested 8256 tokens", Cause.CONTEXT_LENGTH),
    ("The input token count (1200293) exceeds the maximum number of tokens allowed (1048576).", Cause.CONTEXT_LENGTH),
    ("Too many tokens, please wait before trying again.", Cause.THROTTLED),
    ("An error occurred (throttlingException): Too many requests, please wait before trying again.", Cause.THROTTLED),
    ("Rate limit reached for o4-mini on requests per min (RPM)", Cause.THROTTLED),
    ("Too many connections, please wait before trying again.", Cause.OVERLOADED),
    ("ServiceUnavailableException: Bedrock is unable to process your request.", Cause.OVERLOADED),
    ("The model is temporarily unavailable", Cause.OVERLOADED),
    ("ModelNotReadyException: The model is not ready to serve inference requests", Cause.OVERLOADED),
    ("max_tokens: 64064 > 64000, which is the maximum allowed number of output tokens for claude", Cause.MAX_TOKENS),
    ("max_tokens is too large: 20480. This model supports at most 16384 completion tokens", Cause.MAX_TOKENS),
    ("The maximum tokens you requested exceeds the model limit of 32768", Cause.MAX_TOKENS),
    ("Token limit exceeded", Cause.TOKEN_LIMIT),
    ("max tokens of 4096 exceeded", Cause.TOKEN_LIMIT),
    ("The model returned the following errors: `temperature` and `top_p` cannot both be specified", Cause.SAMPLING),
    ("Unsupported parameter: 'temperature' is not supported with this model.", Cause.SAMPLING),
    ("Unsupported parameter: 'top_p' is not supported with this model.", Cause.SAMPLING),
    (
        "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value is supported.",
        Cause.SAMPLING,
    ),
    (
        "Invalid schema: #/properties/tool_calls/items/properties/throttle: keyword 'anyOf' is not supported",
        Cause.INVALID_SCHEMA,
    ),
    ("output_config.format.schema: unsupported keyword", Cause.INVALID_SCHEMA),
    ("Model unavailable", Cause.MODEL_UNAVAILABLE),
    ("Something went wrong", Cause.OTHER),
]


def test_every_pattern_of_the_table_has_a_text_that_was_seen() -> None:
    found = {next(row for row in PATTERNS if re.search(row[1], text, re.IGNORECASE)) for text, _ in EXAMPLES}
    assert found == {*PATTERNS}


@pytest.mark.parametrize(("text", "cause"), [*EXAMPLES, *SEEN])
def test_texts_that_were_seen_have_their_cause_in_any_letter_case(text: str, cause: Cause) -> None:
    assert cause_of(text) is cause_of(text.upper()) is cause


@pytest.mark.parametrize(
    ("text", "kind", "param", "code"),
    [
        ("prompt is too long", ContextLengthExceeded, "messages", "context_length_exceeded"),
        ("max_tokens: 2 > 1, which is the maximum allowed number of output tokens", InvalidRequest, "max_tokens", None),
        ("`temperature` and `top_p` cannot both be specified", InvalidRequest, "top_p", "unsupported_parameter"),
        ("'temperature' does not support 0.2", InvalidRequest, "temperature", "unsupported_parameter"),
        ("Invalid schema", InvalidRequest, None, "invalid_json_schema"),
        ("Model unavailable", ModelNotFound, "model", "model_not_found"),
        ("Invalid data plane", PermissionDenied, None, None),
    ],
)
def test_causes_that_are_the_requests_keep_their_status_whether_paid_or_not(
    text: str, kind: type[ProxyError], param: str | None, code: str | None
) -> None:
    for job_id in (None, "j1"):
        error = error_for(text, code="x", job_id=job_id)
        assert (type(error), error.param, error.code, error.job_id, error.retry_after) == (
            kind,
            param,
            code,
            job_id,
            None,
        )
        assert text in error.message


def test_any_other_cause_is_a_paid_failure_of_a_job_and_an_upstream_error_of_a_refused_call() -> None:
    failed = error_for("odd", code="narrative_job_failed", job_id="j1")
    assert (type(failed), failed.status, failed.code, failed.job_id) == (PaidFailure, 424, "narrative_job_failed", "j1")
    assert "job j1 failed: odd" in failed.message
    for job_id in (None, "j1"):
        refused = error_for("odd", code=REJECTED, job_id=job_id)
        assert (type(refused), refused.status, refused.code, refused.job_id) == (UpstreamError, 502, REJECTED, job_id)
        assert "refused the request: odd" in refused.message
    assert "no reason was given" in error_for("", code=REJECTED).message


@pytest.mark.parametrize(
    ("text", "kind", "seconds"),
    [
        ("ThrottlingException", RateLimited, 5.0),
        ("Rate limit reached. Please try again in 20s.", RateLimited, 20.0),
        ("Rate limit reached. Please try again in 7.66s.", RateLimited, 7.66),
        ("Rate limit reached. Please try again in 136ms.", RateLimited, 1.0),
        ("Rate limit reached. Please try again in 3600s.", RateLimited, 60.0),
        ("Overloaded", Overloaded, 2.0),
    ],
)
def test_load_invites_a_repeat_after_the_pause_that_is_asked_for(
    text: str, kind: type[ProxyError], seconds: float
) -> None:
    error = error_for(text, code="x", job_id="j1")
    assert (type(error), error.retry_after) == (kind, seconds)


def test_secrets_and_control_characters_do_not_leave() -> None:
    assert clean("bad key\x00sk-narrative-123\n!", "sk-narrative-123") == "bad key [redacted] !"
    assert clean("twelve: 123456789012", "123456789012") == "twelve: [redacted]"
    assert clean("the word sandbox", "sandbox") == "the word sandbox"
    assert clean("x", "") == "x"
    assert len(clean("a" * 1000, "")) == 500


def test_only_the_beginning_of_an_endless_text_counts() -> None:
    assert cause_of("a" * 2_000 + " prompt is too long") is Cause.OTHER
