"""Narrative's inference jobs: a typed client, and the engine that runs jobs to their end."""

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.events import Event, Observer
from proxy.backends.narrative.jobs import Jobs, JobsOptions
from proxy.backends.narrative.options import ClientOptions
from proxy.backends.narrative.places import PlaceOptions
from proxy.backends.narrative.reader import WatchOptions
from proxy.backends.narrative.submit import SubmitOptions
from proxy.backends.narrative.webhooks import Receipt, WebhookOptions, Webhooks

__all__ = [
    "ClientOptions",
    "Event",
    "Jobs",
    "JobsOptions",
    "NarrativeClient",
    "Observer",
    "PlaceOptions",
    "Receipt",
    "SubmitOptions",
    "WatchOptions",
    "WebhookOptions",
    "Webhooks",
]
