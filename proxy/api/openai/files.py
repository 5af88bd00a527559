"""Routes of files: uploads for batches, and the results of these. Source: contract `openai-batches.md`, Files."""

from typing import Any, Final

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

SHORTEST_TTL_S: Final = 3600
LONGEST_TTL_S: Final = 2_592_000
_MAX_LIST: Final = 10_000
_MAX_FIELD: Final = 1024
_MAX_FIELDS: Final = 16
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
    batches, owner, _ = await enter(request)
    settings = request.state.api.settings.batches
    if request.headers.get("content-encoding", "identity") != "identity":
        raise InvalidRequest("The body of an upload must not be compressed.", param="Content-Encoding")
    form = Multipart(request.headers.get("content-type", ""))
    async with batches.files.upload(owner, settings.max_file_ttl_s) as writer:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            await writer.write(form.feed(chunk))
            if received > writer.size + _MAX_OVERHEAD:
                raise RequestTooLarge(f"The form has more than {_MAX_OVERHEAD} bytes beside its file.", param="file")
        form.finish()
        if form.fields.get("purpose") != "batch":
            raise InvalidRequest("Invalid `purpose`: expected 'batch'.", param="purpose")
        ttl_s, seconds = settings.file_ttl_s, form.fields.get("expires_after[seconds]", "")
        if seconds or "expires_after[anchor]" in form.fields:
            number = int(seconds) if seconds.isdecimal() and seconds.isascii() and len(seconds) < 10 else None
            ttl_s = seconds_kept(form.fields.get("expires_after[anchor]"), number, "expires_after", settings)
        file = await writer.finish(form.filename, ttl_s)
    return json_response(file_out(file))


async def list_files(request: Request) -> Response:
    """`GET /v1/files`: one's own files, in pages."""
    batches, owner, _ = await enter(request)
    purpose = request.query_params.get("purpose")
    files = await batches.files.all(owner)
    listed = [file_out(file) for file in files if purpose in (None, file.purpose)]
    return page_response(request, listed, _MAX_LIST, _MAX_LIST, oldest_first=True)


async def retrieve(request: Request) -> Response:
    """`GET /v1/files/{id}`."""
    batches, owner, _ = await enter(request)
    return json_response(file_out(await batches.files.find(owner, request.path_params["id"])))


async def delete(request: Request) -> Response:
    """`DELETE /v1/files/{id}`, unless a batch reads it."""
    batches, owner, _ = await enter(request)
    file = await batches.files.find(owner, request.path_params["id"])
    await batches.files.remove(owner, file)
    return json_response({"id": file.id, "object": "file", "deleted": True})


async def content(request: Request) -> Response:
    """`GET /v1/files/{id}/content`: the bytes."""
    batches, owner, _ = await enter(request)
    file = await batches.files.find(owner, request.path_params["id"])
    return await streamed(batches.files.pieces(file.id, file.pieces), "application/octet-stream", file.size)


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


# ---------------------------------------------------------------- forms


class Multipart:
    """Reads a form with one file as it arrives, and keeps nothing of the file's content. Raises InvalidRequest.

    Attributes:
        fields: those beside the file, so far.
        filename: of the file; "" before its part begins.
    """

    def __init__(self, content_type: str) -> None:
        # Only uploads need it.
        from python_multipart.exceptions import FormParserError  # noqa: PLC0415
        from python_multipart.multipart import MultipartParser, parse_options_header  # noqa: PLC0415

        self.fields: dict[str, str] = {}
        self.filename = ""
        self._parse_options, self._parser_error = parse_options_header, FormParserError
        self._header, self._header_value, self._value = bytearray(), bytearray(), bytearray()
        self._name, self._in_file, self._ended = "", False, False
        self._found: list[bytes] = []
        kind, options = parse_options_header(content_type)
        callbacks: Any = {
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": lambda: setattr(self, "_ended", True),
        }
        try:
            if kind != b"multipart/form-data" or not options.get(b"boundary"):
                raise FormParserError
            self._parser = MultipartParser(options[b"boundary"], callbacks)
        except FormParserError:
            message = "Invalid `Content-Type`: expected multipart/form-data with a boundary."
            raise InvalidRequest(message, param="Content-Type") from None

    def feed(self, chunk: bytes) -> bytes:
        """What the chunk holds of the file. Raises InvalidRequest."""
        try:
            self._parser.write(chunk)
        except self._parser_error as error:
            raise InvalidRequest(f"The form cannot be read: {str(error)[:200]}.") from None
        found, self._found = b"".join(self._found), []
        return found

    def finish(self) -> None:
        """Raises InvalidRequest: the form is incomplete."""
        if not self._ended:
            raise InvalidRequest("The form is incomplete: its last boundary is missing.")
        if not self.filename:
            raise InvalidRequest("Invalid `file`: the field is required, with a name.", param="file")

    def _end_header(self) -> None:
        header, value = bytes(self._header).lower(), bytes(self._header_value)
        self._header.clear()
        self._header_value.clear()
        if header != b"content-disposition":
            return
        _, options = self._parse_options(value)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in options and self._name != "file":
            return
        filename = options.get(b"filename", b"").decode("utf-8", "replace")
        if self._name != "file" or self.filename:
            raise InvalidRequest("Invalid `file`: expected one file.", param="file")
        if not filename.lower().endswith(".jsonl") or len(filename) > 255:
            raise InvalidRequest("Invalid `file`: its name must be .jsonl.", param="file")
        self.filename, self._in_file = filename, True

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._found.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD:
            raise InvalidRequest(
                f"A field of the form has more than {_MAX_FIELD} bytes.", param=self._name[:64] or None
            )

    def _end_part(self) -> None:
        if not self._in_file:
            self.fields[self._name] = self._value.decode("utf-8", "replace")
        if len(self.fields) > _MAX_FIELDS:
            raise InvalidRequest(f"The form has more than {_MAX_FIELDS} fields.")
        self._name, self._in_file = "", False
        self._value.clear()
