"""The `narrative-proxy batch` command: a file of requests through a running server, and its rows in one file.

What was begun is noted beside the output, so that the same command goes on with it after Ctrl-C.
"""

import hashlib
import http.client
import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from proxy.cli.common import fail

_ENDED: Final = ("failed", "completed", "cancelled", "expired")
_RETRIES: Final = 30
_RETRY_S: Final = 2.0
_SHOWN: Final = 20


@click.group("batch")
def batch_group() -> None:
    """Send many requests as one batch."""


@batch_group.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="File for all rows.")
@click.option(
    "--url", default="http://127.0.0.1:8080", show_default=True, envvar="NARRATIVE_PROXY_URL", help="The server."
)
@click.option("--key", default="any-key", envvar="NARRATIVE_PROXY_KEY", help="API key [env: NARRATIVE_PROXY_KEY].")
@click.option("--poll", type=click.FloatRange(min=0.05), default=2.0, show_default=True, help="Seconds between polls.")
def run(file: Path, out: Path, url: str, key: str, poll: float) -> None:
    """Answer every line of FILE and write the rows to --out.

    Interrupted with Ctrl-C, the batch goes on, and the same command resumes. Exits with 1 when lines failed, and names them.
    """
    server, state = _Server(url.rstrip("/").removesuffix("/v1"), key), out.with_name(f"{out.name}.batch")
    try:
        batch = _wait(server, _begun(server, file, state), poll)
    except KeyboardInterrupt:
        click.echo("\nThe batch goes on. Run the same command again to get its rows.", err=True)
        raise SystemExit(130) from None
    if batch["status"] == "failed":
        state.unlink(missing_ok=True)
        errors = (batch["errors"] or {"data": []})["data"]
        fail([f"line {error['line'] or '-'}: {error['code']}: {error['message']}" for error in errors], code=1)
    failed = _write_rows(server, batch, out)
    state.unlink(missing_ok=True)
    counts = batch["request_counts"]
    click.echo(f"{counts['completed']} of {counts['total']} lines were answered: {out}", err=True)
    if batch["status"] != "completed":
        failed.append(f"the batch is {batch['status']}")
    if failed:
        more = [f"and {len(failed) - _SHOWN} more"] if len(failed) > _SHOWN else []
        fail([*failed[:_SHOWN], *more], code=1)


class _Server:
    """Calls to the server. What can be repeated is, while the server is away or overloaded; else the command ends with the error."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key

    def json(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}, *, absent_ok: bool = False
    ) -> dict[str, Any]:
        """The JSON of an answer; POST with a body, else GET. Empty where there is nothing at the path and that is `absent_ok`."""
        for last in [False] * _RETRIES + [True]:
            try:
                with self.open(path, body, headers) as answer:
                    found: dict[str, Any] = json.loads(answer.read())
                    return found
            except urllib.error.HTTPError as error:
                if absent_ok and error.code == 404:
                    return {}
                if last or (error.code != 429 and error.code < 500) or error.code == 501:
                    _refused(error)
            except (OSError, http.client.HTTPException) as error:
                if last:
                    fail([f"{self._url} cannot be reached: {error}"], code=1)
            time.sleep(_RETRY_S)
        raise AssertionError

    def open(self, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> Any:
        """An answer, to be read. Raises OSError, of which HTTPError is one."""
        headers = {"authorization": f"Bearer {self._key}", **headers}
        request = urllib.request.Request(f"{self._url}/v1{path}", data=body, headers=headers)  # noqa: S310
        return urllib.request.urlopen(request, timeout=60.0)  # noqa: S310 - the user names the server


def _refused(error: urllib.error.HTTPError) -> NoReturn:
    try:
        message = json.loads(error.read(10_000))["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = error.reason
    fail([f"the server answered {error.code}: {message}"], code=1)


def _begun(server: _Server, file: Path, state: Path) -> str:
    """The id of the batch, which an interrupted command may have made."""
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    known: dict[str, str] = {}
    with suppress(OSError, ValueError):
        known = json.loads(state.read_text())
    begun = f"/batches/{known['batch']}" if "batch" in known else f"/files/{known.get('input')}"
    if known.get("file") != digest or not server.json(begun, absent_ok=True):
        known = {"file": digest, "key": secrets.token_hex(16)}
    if "batch" in known:
        click.echo(f"Resuming {known['batch']}.", err=True)
        return known["batch"]
    if "input" not in known:
        boundary = secrets.token_hex(16)
        part = f"--{boundary}\r\nContent-Disposition: form-data; name="
        begin = f'{part}"purpose"\r\n\r\nbatch\r\n{part}"file"; filename="requests.jsonl"\r\n\r\n'
        form = b"%b%b\r\n--%b--\r\n" % (begin.encode(), content, boundary.encode())
        kind = f"multipart/form-data; boundary={boundary}"
        known["input"] = server.json("/files", form, {"content-type": kind})["id"]
        state.write_text(json.dumps(known))
    endpoint = "/v1/chat/completions"
    with suppress(ValueError, KeyError, TypeError):  # the server says what is wrong with a line
        endpoint = str(json.loads(content.lstrip().partition(b"\n")[0])["url"])
    body = {"input_file_id": known["input"], "endpoint": endpoint, "completion_window": "24h"}
    headers = {"content-type": "application/json", "idempotency-key": known["key"]}
    known["batch"] = server.json("/batches", json.dumps(body).encode(), headers)["id"]
    state.write_text(json.dumps(known))
    return known["batch"]


def _wait(server: _Server, id_: str, poll: float) -> dict[str, Any]:
    """The batch once it has ended; its progress is shown meanwhile."""
    with click.progressbar(length=1, label=id_, show_pos=True, width=0) as bar:
        while True:
            batch = server.json(f"/batches/{id_}")
            counts = batch["request_counts"]
            bar.length = max(counts["total"], 1)
            bar.update(counts["completed"] + counts["failed"] - bar.pos)
            if batch["status"] in _ENDED:
                return batch
            time.sleep(poll)


def _write_rows(server: _Server, batch: dict[str, Any], out: Path) -> list[str]:
    """Write the rows of both result files. Returns a sentence for each line that failed."""
    failed: list[str] = []
    fresh = out.with_name(f"{out.name}.part")
    try:
        with fresh.open("wb") as opened:
            for name in filter(batch.get, ("output_file_id", "error_file_id")):
                with server.open(f"/files/{batch[name]}/content") as answer:
                    for row in answer:
                        opened.write(row)
                        if name == "error_file_id":
                            value = json.loads(row)
                            error = value["error"] or value["response"]["body"]["error"]
                            failed.append(f"{value['custom_id']}: {error.get('code') or 'error'}: {error['message']}")
    except urllib.error.HTTPError as refusal:
        _refused(refusal)
    except (OSError, http.client.HTTPException) as fault:
        fail([f"the rows cannot be copied: {fault}; run the same command again"], code=1)
    fresh.replace(out)
    return failed
