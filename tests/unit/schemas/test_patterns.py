"""Clients' regular expressions mean what ECMA-262 says, in linear time."""

import pytest

from proxy.schemas.patterns import BadPattern, pattern

FOUND = [
    ("b", "abc"),
    (r"^\d{3}$", "123"),
    (r"^\s$", "\u00a0"),
    (r"^\s$", "\ufeff"),
    (r"^[\s]$", "\u2028"),
    (r"^\S+$", "é"),
    (r"^[\S]+$", "aé"),
    (r"^[^\s]$", "x"),
    (r"^\u0041\x42$", "AB"),
    (r"^\u{1F600}$", "😀"),
    (r"^\cJ$", "\n"),
    (r"^[\b]$", "\b"),
    (r"^a\/b\-c\_d$", "a/b-c_d"),
    (r"^\p{L}+$", "äb"),
    (r"^\p{Script=Greek}$", "α"),
    (r"^[^]$", "\n"),
    (r"^[[]$", "["),
    (r"^x{,2}$", "x{,2}"),
    (r"^{$", "{"),
    (r"^a{0,1500}$", "a" * 1400),
    (r"^a{1200,}$", "a" * 2000),
    (r"^(?:ab){1001}$", "ab" * 1001),
    (r"^(?<year>\d+)$", "2024"),
    (r"^(?i)a$", "A"),
    (r"\Aa\Z", "a"),
    (r"^(?!foo|bar).*$", "baz"),
    (r"^(?=.*[A-Z])(?=.*\d).{4,}$", "ab1C"),
    (r"^(?!^lucene\.|builtin\.).*", "other"),
    (r"^.$", "😀"),
]
NOT_FOUND = [
    ("^b", "abc"),
    (r"^\d$", "٣"),
    (r"^\w$", "é"),
    (r"^.$", "\u2028"),
    (r"^.$", "\r"),
    (r"a$", "a\n"),
    (r"[]", "a"),
    (r"^a{0,1500}$", "a" * 1501),
    (r"^a{1200,}$", "a" * 1199),
    (r"^(?:ab){1001}$", "ab" * 1000),
    (r"^(?!foo|bar).*$", "bark"),
    (r"^(?=.*[A-Z])(?=.*\d).{4,}$", "abcd1"),
    (r"^(a+)+$", "a" * 10_000 + "!"),
    (r"^(\w+\s?)*$", "a" * 10_000 + "!"),
]


@pytest.mark.parametrize(("source", "text"), FOUND, ids=repr)
def test_a_pattern_is_found(source: str, text: str) -> None:
    assert pattern(source).found_in(text) is True


@pytest.mark.parametrize(("source", "text"), NOT_FOUND, ids=repr)
def test_a_pattern_is_not_found(source: str, text: str) -> None:
    assert pattern(source).found_in(text) is False


@pytest.mark.parametrize(
    "source",
    [
        r"(a)\1",
        r"(?<!a)b",
        r"a(?=b)",
        r"^(?:(?!x).)*$",
        r"(?<n>a)\k<n>",
        r"^a|(?!b)c",
        r"^(?=a)*b",
        r"\p{Nonsense}",
        r"a{70000}",
        "x" * 5_000,
        r"((a{100}){100}){100}",
    ],
    ids=lambda source: source[:20],
)
def test_what_cannot_be_matched_in_linear_time_is_not_evaluated(source: str) -> None:
    """A pattern that a linear-time engine cannot run is no reason to stall, nor to refuse an answer."""
    assert pattern(source).found_in("a") is None
    assert not pattern(source).plain


def test_a_text_too_long_for_its_pattern_is_not_evaluated() -> None:
    assert pattern("(a?){900}(b?){900}c").found_in("ab" * 50_000) is None


@pytest.mark.parametrize("source", ["[", "(", ")", "a)", "(?:a", "*a", "a|*", "(+)", "a\\", "[z-a]", "[a\\"])
def test_what_is_no_regular_expression_is_refused(source: str) -> None:
    with pytest.raises(BadPattern):
        pattern(source)


def test_halves_of_characters_do_no_harm() -> None:
    assert pattern("^.$").found_in("\ud800") is True
    assert pattern("\ud800").found_in("a") is None


@pytest.mark.parametrize(("count", "judged"), [(11_999, True), (12_001, False)])
def test_patterns_are_checked_up_to_the_size_that_compiles_soon(count: int, judged: bool) -> None:
    prepared = pattern(f"^a{{{count}}}")
    assert (prepared.conditions is not None) is judged
    assert prepared.found_in("b") is (False if judged else None)


@pytest.mark.parametrize(("length", "judged"), [(4_096, True), (4_097, False)])
def test_patterns_are_checked_up_to_a_length(length: int, judged: bool) -> None:
    assert pattern("x" * length).found_in("y") is (False if judged else None)


@pytest.mark.parametrize(
    ("source", "text"), [(r"^\p{Letter}+$", "äb"), (r"^\p{Lowercase_Letter}$", "ä"), (r"^\P{digit}$", "x")]
)
def test_long_names_of_unicode_categories_are_understood(source: str, text: str) -> None:
    assert pattern(source).found_in(text) is True
    assert pattern(source).found_in("1") is False


def test_large_patterns_are_compiled_when_they_are_needed() -> None:
    large = pattern(r"^[z-a]{1000}$")
    assert large.found_in("a") is None  # no regular expression, which is found out too late to refuse it
    with pytest.raises(BadPattern):
        pattern(r"^[z-a]{2}$")
