"""A job: what was decided at its submission, and how it looks at any moment after (contract narrative.md, GET /jobs/{job_id}).

Nothing happens to a job as time passes: its states are read off the clock.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from proxy.backends.narrative.types import JobState

JOB_TYPE = "model_inference"
NEVER = math.inf


@dataclass(slots=True)
class Job:
    """Times are seconds since the epoch.

    Attributes:
        id: uuid.
        number: 1 for the first job of this sandbox.
        data_plane_id: where it runs.
        input_json: the echoed request, as JSON text.
        created_at: when it was enqueued; it is `pending` from here on.
        running_at: when it starts to run; NEVER leaves it pending.
        ended_at: when it ends; NEVER leaves it as it is.
        outcome: the state in which it ends.
        meanwhile: the state between `running_at` and `ended_at`.
        result_json: usage and structured output as JSON text, shown when it has completed.
        failures: causes, shown when it has failed.
    """

    id: str
    number: int
    data_plane_id: str
    input_json: bytes
    created_at: float
    running_at: float
    ended_at: float
    outcome: str = JobState.COMPLETED
    meanwhile: str = JobState.RUNNING
    result_json: bytes | None = None
    failures: Sequence[dict[str, str]] = ()

    @property
    def body(self) -> Any:
        """The submission as it was echoed: `data_plane_id`, `model`, `messages`, `inference_config`, `tags`."""
        return json.loads(self.input_json)

    @property
    def tags(self) -> list[str]:
        return list(self.body.get("tags", []))

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        return len(self.input_json) + len(self.result_json or b"")

    def state_at(self, now: float) -> str:
        if now >= self.ended_at:
            return self.outcome
        return self.meanwhile if now >= self.running_at else JobState.PENDING

    def updated_at(self, now: float) -> float:
        """The last change of state up to now."""
        if now >= self.ended_at:
            return self.ended_at
        return self.running_at if now >= self.running_at else self.created_at

    def next_change(self, now: float) -> float:
        """The next change of state after now; NEVER when there is none."""
        return next((at for at in (self.running_at, self.ended_at) if at > now), NEVER)

    def record(
        self, now: float, *, id_name: Literal["job_id", "id"] = "job_id", with_result: bool = True
    ) -> dict[str, Any]:
        """The job as the API shows it at a time; parts of it are ready-made JSON (`orjson.Fragment`)."""
        state = self.state_at(now)
        result = self.result_json if state == JobState.COMPLETED and with_result else None
        return {
            id_name: self.id,
            "type": JOB_TYPE,
            "state": state,
            "data_plane_id": self.data_plane_id,
            "input": orjson.Fragment(self.input_json),
            "result": None if result is None else orjson.Fragment(result),
            "failures": list(self.failures) if state == JobState.FAILED else [],
            "idempotency_key": None,
            "executor": "sandbox",
            "request_source": "api",
            "created_at": _zoned(self.created_at),
            "updated_at": _zoneless(self.updated_at(now)),
            "ended_at": _zoneless(self.ended_at) if now >= self.ended_at else None,
        }


def _zoned(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _zoneless(moment: float) -> str:
    # Narrative leaves the zone out of some times; they are UTC all the same.
    return datetime.fromtimestamp(moment, UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
