"""Webhook subscriptions (contract narrative.md, section Webhooks)."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from proxy.sandbox.jobs import JOB_TYPE, Job
from proxy.sandbox.options import LOOPBACK, SandboxOptions
from proxy.sandbox.refusal import Refusal

_MOST = 1_000


class SubscriptionBody(BaseModel):
    """The body of `POST /webhooks`. An absent filter takes everything."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    type: Literal["webhook_subscription_jobs"]
    url: str
    name: str | None = None
    job_types: list[str] | None = None
    states: list[str] | None = None
    job_ids: list[str] | None = None


@dataclass
class Subscription:
    """A subscription; an archived one gets nothing any more."""

    id: str
    secret: str
    body: SubscriptionBody
    status: Literal["active", "archived"] = "active"

    def wants(self, job: Job, state: str) -> bool:
        """Whether a job's change to a state is to be told."""
        types = {name.replace("-", "_") for name in self.body.job_types or (JOB_TYPE,)}
        return (
            self.status == "active"
            and JOB_TYPE in types
            and (not self.body.states or state in self.body.states)
            and (not self.body.job_ids or job.id in self.body.job_ids)
        )

    def record(self) -> dict[str, Any]:
        """As the API shows it."""
        return {"id": self.id, "secret": self.secret, "status": self.status, **self.body.model_dump(exclude_none=True)}


class Subscriptions:
    """All subscriptions of one sandbox."""

    def __init__(self, options: SandboxOptions) -> None:
        self._options = options
        self._all: dict[str, Subscription] = {}

    def create(self, body: bytes) -> Subscription:
        """Reads a subscription and adds it.

        Raises:
            Refusal: 400, the body is wrong or deliveries may not go there.
        """
        try:
            asked = SubscriptionBody.model_validate(orjson.loads(body))
        except ValidationError as fault:
            first = fault.errors(include_url=False, include_context=False, include_input=False)[0]
            raise Refusal(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from fault
        except orjson.JSONDecodeError as fault:
            raise Refusal(400, f"The request body is not valid JSON: {fault}") from fault
        self._check_url(asked.url)
        if len(self.active()) >= _MOST:
            raise Refusal(400, f"There are {_MOST} subscriptions already")
        subscription = Subscription(id=str(uuid.uuid4()), secret=str(uuid.uuid4()), body=asked)
        self._all[subscription.id] = subscription
        self._drop_archived()
        return subscription

    def get(self, subscription_id: str) -> Subscription:
        """Raises Refusal: 404."""
        subscription = self._all.get(subscription_id)
        if subscription is None:
            raise Refusal(404, f"Webhook {subscription_id} was not found")
        return subscription

    def archive(self, subscription_id: str) -> Subscription:
        """Raises Refusal: 404."""
        subscription = self.get(subscription_id)
        subscription.status = "archived"
        return subscription

    def all(self) -> list[Subscription]:
        return list(self._all.values())

    def active(self) -> list[Subscription]:
        return [subscription for subscription in self._all.values() if subscription.status == "active"]

    def _check_url(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            host = parts.hostname
        except ValueError as fault:
            raise Refusal(400, "url: is not a URL") from fault
        if parts.scheme != "https" and not (parts.scheme == "http" and host in LOOPBACK):
            raise Refusal(400, "url: must be https")
        if host not in self._options.webhook_hosts:
            raise Refusal(400, f"url: this sandbox delivers to {', '.join(sorted(self._options.webhook_hosts))} only")

    def _drop_archived(self) -> None:
        archived = [each.id for each in self._all.values() if each.status == "archived"]
        for subscription_id in archived[: max(0, len(self._all) - 2 * _MOST)]:
            del self._all[subscription_id]


def secret_headers(subscription: Subscription, options: SandboxOptions) -> Mapping[str, str]:
    """The headers that prove a delivery's origin."""
    match options.webhook_secret:
        case "header":
            return {"X-Narrative-Webhook-Secret": subscription.secret}
        case "bearer":
            return {"Authorization": f"Bearer {subscription.secret}"}
        case _:
            return {}
