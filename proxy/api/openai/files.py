"""Routes of files: uploads for batches, and the results of these. Source: contract `openai-batches.md`, Files."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.api.http.batches import enter, streamed
from proxy.api.http.responses import json_response
from proxy.api.openai.routes import page_response, route
from proxy.batches.files import StoredFile
from proxy.errors import InvalidRequest, RequestTooLarge
from proxy.inference.request import JsonObject
from proxy.settings import BatchSettings

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartParser

SHORTEST_TTL_S: Final = 3600
LONGEST_TTL_S: Final = 2_592_000
_MAX_LIST: Final = 10_000
_MAX_FIELD: Final = 1024
_MAX_FIELDS: Final = 16
_MAX_NAME: Final = 255
_MAX_OVERHEAD: Final = 64 * 1024
"""Bytes of a form beside the file's content."""


def files_routes() -> list[Route]:
    """All of them."""
    return [
        *route("/files", upload, "POST"),
        *route("/files", list_files, "GET"),
        *route("/files/{id}", retrieve, "GET"),
        *route("/files/{id}", delete, "DELETE"),
        *route("/files/{id}/content", content, "GET"),
    ]


async def upload(request: Request) -> Response:
    """`POST /v1/files`: a form with a file, stored while it arrives."""
    services, owner, _ = await enter(request)
    settings = services.api.settings.batches
    if request.headers.get("content-encoding", "identity") != "identity":
        raise InvalidRequest("The body of an upload must not be compressed.", param="Content-Encoding")
    form = Multipart.of(request.headers.get("content-type", ""))
    async with services.batches.files.upload(owner, settings.max_file_ttl_s) as writer:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            await writer.write(form.feed(chunk))
            if received > writer.size + _MAX_OVERHEAD:
                raise RequestTooLarge(f"The form has more than {_MAX_OVERHEAD} bytes beside its file.", param="file")
        form.finish()
        fields = form.fields
        if fields.get("purpose") != "batch":
            raise InvalidRequest("Invalid `purpose`: expected 'batch'.", param="purpose")
        ttl_s = _ttl(fields, settings)
        file = await writer.finish(form.filename, ttl_s)
    return json_response(file_out(file))


async def list_files(request: Request) -> Response:
    """`GET /v1/files`: one's own files, in pages."""
    services, owner, _ = await enter(request)
    purpose = request.query_params.get("purpose")
    files = await services.batches.files.all(owner)
    listed = [file_out(file) for file in files if purpose in (None, file.purpose)]
    return page_response(request, listed, _MAX_LIST, _MAX_LIST, oldest_first=True)


async def retrieve(request: Request) -> Response:
    """`GET /v1/files/{id}`."""
    services, owner, _ = await enter(request)
    return json_response(file_out(await services.batches.files.find(owner, request.path_params["id"])))


async def delete(request: Request) -> Response:
    """`DELETE /v1/files/{id}`, unless a batch reads it."""
    services, owner, _ = await enter(request)
    file = await services.batches.files.find(owner, request.path_params["id"])
    await services.batches.files.remove(owner, file)
    return json_response({"id": file.id, "object": "file", "deleted": True})


async def content(request: Request) -> Response:
    """`GET /v1/files/{id}/content`: the bytes."""
    services, owner, _ = await enter(request)
    file = await services.batches.files.find(owner, request.path_params["id"])
    return await streamed(services.batches.files.pieces(file.id, file.pieces), "application/octet-stream", file.size)


def file_out(file: StoredFile) -> JsonObject:
    """The file object. Its status is final at once."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created_at),
        "expires_at": file.expires_at,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def seconds_kept(anchor: object, seconds: object, name: str, settings: BatchSettings) -> int:
    """How long a file is kept that names when it expires. Raises InvalidRequest."""
    if anchor != "created_at":
        raise InvalidRequest(f"Invalid `{name}[anchor]`: expected 'created_at'.", param=f"{name}[anchor]")
    if not isinstance(seconds, int) or not SHORTEST_TTL_S <= seconds <= LONGEST_TTL_S:
        param = f"{name}[seconds]"
        expected = f"expected a number from {SHORTEST_TTL_S} to {LONGEST_TTL_S}"
        raise InvalidRequest(f"Invalid `{param}`: {expected}.", param=param)
    return min(seconds, settings.max_file_ttl_s)


def _ttl(fields: dict[str, str], settings: BatchSettings) -> int:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]", "")
    if anchor is None and not seconds:
        return settings.file_ttl_s
    number = int(seconds) if seconds.isdecimal() and seconds.isascii() and len(seconds) < 10 else None
    return seconds_kept(anchor, number, "expires_after", settings)


# ---------------------------------------------------------------- forms


@dataclass(slots=True)
class Multipart:
    """Reads a form with one file as it arrives, and keeps nothing of the file's content.

    Attributes:
        fields: the other fields, so far.
        filename: of the file; "" before its part begins.
    """

    fields: dict[str, str] = field(default_factory=dict)
    filename: str = ""
    _parser: "MultipartParser | None" = None
    _header: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    _name: str = ""
    _in_file: bool = False
    _value: bytearray = field(default_factory=bytearray)
    _found: list[bytes] = field(default_factory=list)
    _ended: bool = False

    @classmethod
    def of(cls, content_type: str) -> "Multipart":
        """For a request with that header. Raises InvalidRequest: it is no form."""
        from python_multipart.exceptions import FormParserError  # noqa: PLC0415 (only uploads need it)
        from python_multipart.multipart import MultipartParser, parse_options_header  # noqa: PLC0415

        kind, options = parse_options_header(content_type)
        form = cls()
        try:
            if kind != b"multipart/form-data" or not options.get(b"boundary"):
                raise FormParserError
            form._parser = MultipartParser(options[b"boundary"], form._callbacks())
        except FormParserError:
            message = "Invalid `Content-Type`: expected multipart/form-data with a boundary."
            raise InvalidRequest(message, param="Content-Type") from None
        return form

    def feed(self, chunk: bytes) -> bytes:
        """What the chunk holds of the file. Raises InvalidRequest."""
        from python_multipart.exceptions import FormParserError  # noqa: PLC0415 (as in `of`)

        try:
            if self._parser is not None:
                self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidRequest(f"The form cannot be read: {str(error)[:200]}.") from None
        found, self._found = b"".join(self._found), []
        return found

    def finish(self) -> None:
        """Raises InvalidRequest: the form is incomplete."""
        if not self._ended:
            raise InvalidRequest("The form is incomplete: its last boundary is missing.")
        if not self.filename:
            raise InvalidRequest("Invalid `file`: the field is required, with a name.", param="file")

    def _callbacks(self) -> Any:
        return {
            "on_header_field": self._append_to(self._header[0]),
            "on_header_value": self._append_to(self._header[1]),
            "on_header_end": self._header_ended,
            "on_part_begin": self._part_began,
            "on_part_data": self._part_data,
            "on_part_end": self._part_ended,
            "on_end": self._all_ended,
        }

    def _append_to(self, target: bytearray) -> Callable[[bytes, int, int], None]:
        def append(data: bytes, start: int, end: int) -> None:
            target.extend(data[start:end])

        return append

    def _part_began(self) -> None:
        self._name, self._in_file = "", False
        self._value.clear()

    def _header_ended(self) -> None:
        from python_multipart.multipart import parse_options_header  # noqa: PLC0415 (as in `of`)

        name, value = (bytes(part) for part in self._header)
        for part in self._header:
            part.clear()
        if name.lower() != b"content-disposition":
            return
        _, options = parse_options_header(value)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in options and self._name != "file":
            return
        filename = options.get(b"filename", b"").decode("utf-8", "replace")
        if self._name != "file" or self.filename:
            raise InvalidRequest("Invalid `file`: expected one file.", param="file")
        if not filename.lower().endswith(".jsonl") or len(filename) > _MAX_NAME:
            raise InvalidRequest("Invalid `file`: its name must be .jsonl.", param="file")
        self.filename, self._in_file = filename, True

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._found.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD:
            raise InvalidRequest(
                f"A field of the form has more than {_MAX_FIELD} bytes.", param=self._name[:64] or None
            )

    def _part_ended(self) -> None:
        if not self._in_file:
            self.fields[self._name] = self._value.decode("utf-8", "replace")
        if len(self.fields) > _MAX_FIELDS:
            raise InvalidRequest(f"The form has more than {_MAX_FIELDS} fields.")

    def _all_ended(self) -> None:
        self._ended = True
