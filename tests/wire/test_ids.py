"""Nine characters for any text."""

import pytest

from proxy.wire.ids import is_nine_char_id, nine_char_digest


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("call_0", "MwuYhcGJw"),
        ("call_1", "rJ53UQlhG"),
        ("toolu_01VpEm654HvfMoRcrE3Hgdc6", "ksaz9quGk"),
        ("chatcmpl-tool-0123456789abcdef", "9QaGsc9zl"),
        ("call_31886172-c376-4cae-85d6-88ca25b15ed3", "oaQGP0Ufi"),
        ("fc_05171dc28f1341080068e93a6ad15481", "yyB37y2Lt"),
    ],
)
def test_the_digest_is_the_one_of_the_specification(text, digest):
    assert nine_char_digest(text) == digest


@pytest.mark.parametrize("text", ["", "é", "👋", "\ud800", "x" * 10_000])
def test_any_text_has_a_digest_that_is_an_id(text):
    assert is_nine_char_id(nine_char_digest(text))


@pytest.mark.parametrize("text", ["", "abcDEF12", "abcDEF1234", "abc-EF123", "abcDÉF12", "abcDEF123\n", "١٢٣٤٥٦٧٨٩"])
def test_what_is_not_nine_ascii_alphanumerics_is_no_id(text):
    assert not is_nine_char_id(text)


def test_ten_thousand_texts_have_ten_thousand_digests():
    assert len({nine_char_digest(f"call_{number}") for number in range(10_000)}) == 10_000
