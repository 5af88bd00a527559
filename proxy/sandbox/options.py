"""How a sandbox behaves: every choice in one frozen value."""

from collections.abc import Set
from dataclasses import dataclass, field
from typing import Literal

SANDBOX_DATA_PLANE = "5a4db0c5-0000-4000-8000-00005a4db0c5"
"""A data plane id for first runs and examples."""

MODELS: frozenset[str] = frozenset(
    {
        "anthropic.claude-haiku-4.5",
        "anthropic.claude-sonnet-4.5",
        "anthropic.claude-sonnet-4.6",
        "anthropic.claude-opus-4.5",
        "anthropic.claude-opus-4.6",
        "openai.gpt-oss-120b",
        "openai.gpt-4.1",
        "openai.o4-mini",
    }
)
"""The models of contract narrative.md, section Models."""

LOOPBACK: frozenset[str] = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True)
class SandboxOptions:
    """All times are in seconds.

    Attributes:
        pending_s: how long a job is `pending`. With 0 here and in `running_s` a job is completed at its first read.
        running_s: how long it then is `running`.
        median_s: when set, pending and running together last a lognormal time with this median (for benchmarks);
            `pending_s` of it is spent pending, at most all of it.
        sigma: spread of that distribution (of the logarithm).
        seed: seed of that distribution.
        retention_s: an ended job is forgotten this long after its end.
        max_jobs: the oldest job is forgotten when there would be more.
        max_bytes: the same for the bytes of echoed inputs and results together.
        data_planes: the planes that exist; None takes any uuid.
        tokens: the bearer tokens that are good; None takes any, except that one starting with `invalid` is unknown (401)
            and one starting with `forbidden` may do nothing (403).
        models: the names that can be decoded at all; another one is a 400.
        unavailable_models: those of them that the data plane lacks: the job fails with *Model unavailable*.
        schema_keywords: `documented` refuses what the contract does not list (`anyOf`, `$ref`, …); `full` is all of 2020-12.
        type_lists: whether `type` may be a list, which the contract only assumes.
        max_schema_bytes: a larger schema is refused.
        tool_blocks: whether `tool_use` and `tool_result` blocks are taken.
        context_tokens: a prompt of more tokens is refused.
        refusals: whether what the model behind does not take (schema, tool blocks, length) is refused at once with 400
            (`reject`) or by a failed job (`fail`).
        id_name: what the id of a job is called on the wire.
        webhooks: whether `/webhooks` exists.
        webhook_hosts: hosts that deliveries may go to; a subscription for another one is refused.
        webhook_secret: how the secret travels: `header` is `X-Narrative-Webhook-Secret`, `bearer` is `Authorization`.
        webhook_results: whether a delivery carries `result`, or leaves it to be fetched.
        webhook_attempts: how often one delivery is tried.
        webhook_retry_s: the wait before the second try; it doubles from there.
    """

    pending_s: float = 0.1
    running_s: float = 0.7
    median_s: float | None = None
    sigma: float = 0.5
    seed: int = 0
    retention_s: float = 3600.0
    max_jobs: int = 20_000
    max_bytes: int = 512 * 1024 * 1024
    data_planes: Set[str] | None = None
    tokens: Set[str] | None = None
    models: Set[str] = MODELS
    unavailable_models: Set[str] = field(default_factory=frozenset)
    schema_keywords: Literal["documented", "full"] = "documented"
    type_lists: bool = True
    max_schema_bytes: int | None = None
    tool_blocks: bool = True
    context_tokens: int | None = 200_000
    refusals: Literal["reject", "fail"] = "reject"
    id_name: Literal["job_id", "id"] = "job_id"
    webhooks: bool = True
    webhook_hosts: Set[str] = LOOPBACK
    webhook_secret: Literal["header", "bearer", "none"] = "header"  # noqa: S105 - the way it travels, not a secret
    webhook_results: bool = True
    webhook_attempts: int = 5
    webhook_retry_s: float = 1.0
