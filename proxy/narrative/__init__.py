"""Narrative's inference jobs: a typed client, and the engine that runs jobs to their end."""

from proxy.narrative.client import NarrativeClient
from proxy.narrative.events import Event, Observer
from proxy.narrative.jobs import Jobs, JobsOptions
from proxy.narrative.options import ClientOptions
from proxy.narrative.places import PlaceOptions
from proxy.narrative.reader import WatchOptions
from proxy.narrative.submit import SubmitOptions
from proxy.narrative.webhooks import Receipt, WebhookOptions, Webhooks

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
