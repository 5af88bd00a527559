"""Jobs as Narrative's records show them."""

from collections.abc import Mapping
from typing import Any

from proxy.backends.narrative.types import Job, record_of


def job_of(fields: Mapping[str, Any]) -> Job:
    """The job of a record, which must be readable."""
    job = record_of(fields).job()
    assert job is not None
    return job
