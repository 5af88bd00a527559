"""Reading answers that carry jobs: only the few fields that are needed become objects.

Every record echoes the whole request of its job, so a page of twenty can hold megabytes. msgspec skips what is not named here without
building objects. Input, result and failures stay undecoded JSON until somebody waits for that very job. What msgspec
refuses although other parsers take it (half a surrogate pair, `NaN`) is read the slow way.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from proxy.backends.narrative.types import ENDED, Job, normal_state

M = TypeVar("M", bound=BaseModel)
_NULL: Final = msgspec.Raw(b"null")


class Record(msgspec.Struct, omit_defaults=True):
    """One job of an answer, hardly read. `input`, `result` and `failures` are JSON text."""

    job_id: Any = None
    id: Any = None
    state: Any = None
    type: Any = None
    input: msgspec.Raw = _NULL
    result: msgspec.Raw = _NULL
    failures: msgspec.Raw = _NULL
    data_plane_id: Any = None
    created_at: Any = None
    updated_at: Any = None
    ended_at: Any = None

    @property
    def name(self) -> str | None:
        """The job's id, None when the record has none."""
        found = self.job_id or self.id
        return found if isinstance(found, str) else None

    @property
    def ended(self) -> bool:
        return isinstance(self.state, str) and normal_state(self.state) in ENDED

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags its request carried, as far as `input.tags` shows them."""
        try:
            return tuple(tag for tag in _TAGS.decode(self.input).tags if isinstance(tag, str))
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
            return ()

    def job(self) -> Job | None:
        """The job, None when the record cannot be read."""
        try:
            fields = {"result": parse_json(self.result), "failures": parse_json(self.failures)}
            for field in ("state", "type", "data_plane_id", "created_at", "updated_at", "ended_at"):
                if (value := getattr(self, field)) is not None:
                    fields[field] = value
            return Job.model_validate({**fields, "job_id": self.name, "tags": self.tags})
        except (ValueError, RecursionError):
            return None


class _Tagged(msgspec.Struct):
    tags: list[Any] = []


class _Page(msgspec.Struct):
    records: list[msgspec.Raw]
    total_records: Any = None


_TAGS: Final = msgspec.json.Decoder(_Tagged)
_RECORD: Final = msgspec.json.Decoder(Record)
_PAGE: Final = msgspec.json.Decoder(_Page)


@dataclass(frozen=True, slots=True)
class JobPage:
    """The answer of `GET /jobs`.

    Args:
        records: in the order of the page, without what is no object.
        total_records: how many jobs match in all, None when Narrative did not say.
        size: bytes of the answer.
    """

    records: tuple[Record, ...]
    total_records: int | None = None
    size: int = 0


def read_records(page: JobPage) -> list[Job]:
    """The jobs of a page, without the records that cannot be read."""
    return [job for record in page.records if (job := record.job()) is not None]


def parse_page(body: bytes) -> JobPage:
    """Raises ValueError when `body` is no page of jobs."""
    try:
        page = _PAGE.decode(body)
        records = tuple(_RECORD.decode(record) for record in page.records if bytes(memoryview(record)[:1]) == b"{")
        total: Any = page.total_records
    except (msgspec.DecodeError, msgspec.ValidationError):
        found = parse_json(body)
        if not isinstance(found, Mapping) or not isinstance(found.get("records"), list):
            raise ValueError("not a page of jobs") from None
        records = tuple(record_of(each) for each in found["records"] if isinstance(each, Mapping))
        total = found.get("total_records")
    return JobPage(records, total if isinstance(total, int) else None, len(body))


def parse_record(body: bytes) -> Record:
    """Raises ValueError when `body` is no JSON object."""
    try:
        return _RECORD.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError):
        found = parse_json(body)
        if not isinstance(found, Mapping):
            raise ValueError("not a job") from None
        return record_of(found)


def record_of(fields: Mapping[str, Any]) -> Record:
    """A record of parsed JSON."""
    raw = {name: msgspec.Raw(json.dumps(fields[name]).encode()) for name in _RAW if fields.get(name) is not None}
    plain = {name: fields[name] for name in Record.__struct_fields__ if name in fields and name not in _RAW}
    return Record(**plain, **raw)


_RAW: Final = ("input", "result", "failures")


def parse_json(body: bytes | msgspec.Raw) -> Any:
    """JSON as Python values. Half a surrogate pair, which strict parsers refuse, becomes U+FFFD.

    Raises:
        ValueError: not JSON. RecursionError: nested too deep.
    """
    body = bytes(body)
    try:
        return from_json(body)
    except ValueError:
        text = json.dumps(json.loads(body), ensure_ascii=False)
        return from_json(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def parse_model(model: type[M], body: bytes) -> M:
    """`body` as a wire type. Raises ValueError (pydantic's is one) when it is not that."""
    try:
        return model.model_validate_json(body)
    except ValidationError:
        return model.model_validate(parse_json(body))
