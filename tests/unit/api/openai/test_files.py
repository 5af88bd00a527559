"""Forms are read wherever their chunks end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.openai.files import Multipart, file_out, seconds_kept
from proxy.batches.files import StoredFile
from proxy.errors import InvalidRequest
from proxy.settings import BatchSettings

TYPE = "multipart/form-data; boundary=bound"


def body(content: bytes, filename: str) -> bytes:
    parts = (
        b'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch',
        b'Content-Disposition: form-data; name="file"; filename="%s"\r\nContent-Type: text/plain\r\n\r\n%s'
        % (filename.encode(), content),
        b'content-disposition: form-data; name="other"\r\n\r\n',
    )
    return b"".join(b"--bound\r\n" + part + b"\r\n" for part in parts) + b"--bound--\r\n"


@given(
    content=st.lists(st.sampled_from([b"\r\n--bound", b"\r\n--boun", b"\r", b"\n", b"--", b"x", b"\xff"])).map(
        b"".join
    ),
    sizes=st.lists(st.integers(1, 9)),
)
def test_the_content_comes_out_as_it_went_in(content: bytes, sizes: list[int]) -> None:
    content = content.replace(b"\r\n--bound", b"\r\n--bounx")  # a file cannot hold the boundary
    form, sent, found = Multipart(TYPE), body(content, "ä.JSONL"), b""
    while sent:
        size = sizes.pop() if sizes else len(sent)
        found += form.feed(sent[:size])
        sent = sent[size:]
    form.finish()
    assert found == content
    assert (form.filename, form.fields) == ("ä.JSONL", {"purpose": "batch", "other": ""})


@given(noise=st.binary(max_size=200))
def test_other_bodies_are_refused(noise: bytes) -> None:
    form = Multipart(TYPE)
    with pytest.raises(InvalidRequest):  # noqa: PT012 - whichever notices
        form.feed(noise)
        form.finish()


@pytest.mark.parametrize(("seconds", "kept"), [(3600, 3600), (604_801, 604_800), (2_592_000, 604_800)])
def test_a_file_is_kept_as_long_as_the_setting_at_most(seconds: int, kept: int) -> None:
    assert seconds_kept("created_at", seconds, "expires_after", BatchSettings()) == kept


def test_times_are_whole_seconds() -> None:
    assert file_out(StoredFile("file-1", "a.jsonl", "batch", 1, 12.9, 100, 1))["created_at"] == 12
