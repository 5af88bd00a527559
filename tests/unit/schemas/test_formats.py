"""Formats of draft 2020-12."""

import pytest

from proxy.schemas.patterns import has_format

RIGHT = {
    "date-time": ["2024-02-29T23:59:60Z", "2024-01-01t00:00:00.123+02:00"],
    "date": ["2024-02-29"],
    "time": ["12:00:00Z", "23:59:59.5-01:30"],
    "duration": ["P1Y2M3DT4H5M6S", "P2W", "PT1M", "P1D"],
    "email": ["a.b+c@x.example", '"a b"@x.example', "a@[127.0.0.1]"],
    "idn-email": ["ä@ö.example"],
    "hostname": ["x.example", "a-b", "1.example"],
    "idn-hostname": ["ö.example"],
    "ipv4": ["127.0.0.1"],
    "ipv6": ["::1", "2001:db8::1"],
    "uri": ["http://user@[::1]:80/a?b#c", "mailto:a@x.example", "urn:isbn:1", "a:"],
    "uri-reference": ["", "#/a", "../b?c", "//x.example", "http://x.example"],
    "iri": ["http://ö.example/ä"],
    "iri-reference": ["/ä"],
    "uuid": ["123e4567-e89b-12d3-a456-426614174000"],
    "json-pointer": ["", "/a~0b/~1"],
    "relative-json-pointer": ["0", "1/a", "2#"],
    "uri-template": ["/x/{id}{?q*,r:3}", ""],
    "regex": ["^a$", "(?=x)"],
    "no-such-format": ["anything"],
}
WRONG = {
    "date-time": [
        "2024-02-30T00:00:00Z",
        "2024-01-01 00:00:00Z",
        "2024-01-01T00:00:00",
        "2024-01-01",
        "2024-01-01T24:00:00Z",
    ],
    "date": ["2023-02-29", "2024-1-1", "20240101"],
    "time": ["12:00:00", "25:00:00Z"],
    "duration": ["P", "PT", "1D", "P1YT"],
    "email": ["x.example", "a b@x.example", "a@", "@x.example", "a..b@x.example"],
    "idn-email": ["ö.example"],
    "hostname": ["-a", "a_b", "a..b", "x" * 64, ".".join(["a" * 60] * 5)],
    "idn-hostname": ["ö..example"],
    "ipv4": ["256.1.1.1", "1.2.3", "01.2.3.4"],
    "ipv6": [":::", "fe80::1%eth0", "1.2.3.4"],
    "uri": ["//x.example", "not a uri", "http://x.example/ä", "http://x/%zz"],
    "uri-reference": ["a b", "%", "a\\b"],
    "iri": ["ä b"],
    "iri-reference": ["ä b"],
    "uuid": ["123e4567e89b12d3a456426614174000"],
    "json-pointer": ["a", "/~2"],
    "relative-json-pointer": ["/a", "01"],
    "uri-template": ["{", "{a b}"],
    "regex": ["[", "*"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in RIGHT.items() for text in texts])
def test_a_text_has_its_format(name: str, text: str) -> None:
    assert has_format(text, name)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in WRONG.items() for text in texts])
def test_a_text_has_not_a_format(name: str, text: str) -> None:
    assert not has_format(text, name)


@pytest.mark.parametrize("name", sorted(RIGHT.keys() - {"no-such-format", "regex"}))
def test_a_hostile_text_is_evaluated_like_any_other(name: str) -> None:
    assert not has_format("é%" * 50_000 + " ", name)
