"""Jobs as Narrative's records show them."""

import json
from collections.abc import Mapping
from typing import Any

from proxy.backends.narrative.types import Job, JobRecord, parse_record


def record_of(fields: Mapping[str, Any]) -> JobRecord:
    """The record of a job with these fields."""
    return parse_record(json.dumps(fields).encode())


def job_of(fields: Mapping[str, Any]) -> Job:
    """The job of a record, which must be readable."""
    job = record_of(fields).job()
    assert job is not None
    return job
