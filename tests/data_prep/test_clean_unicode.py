"""Repair, normal forms and invisible characters."""

from __future__ import annotations

import unicodedata

import ftfy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.clean.unicode import normalize, remove_control, repair

mend = repair()


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("schÃ¶n", "schön"),
        ("Itâ€™s", "It’s"),
        ("l’humanitÃ©", "l’humanité"),
        ("one\r\ntwo\rthree\u2028four", "one\ntwo\nthree\nfour"),
        ("Tom &amp; J&eacute;r&ocirc;me", "Tom & Jérôme"),
        ("<b>Tom &amp; Jerry</b>", "<b>Tom &amp; Jerry</b>"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\ud83d\ude00 \ud83d", "😀 \ufffd"),
        ("“Curly” ﬁne，全角！ ｶﾀｶﾅ", "“Curly” ﬁne，全角！ ｶﾀｶﾅ"),
        ("plain text", "plain text"),
    ],
)
def test_repair(broken: str, mended: str) -> None:
    assert mend(broken) == mended


@given(st.text(st.sampled_from("abc XYZ.,;'\"-09\n‘’“”–—…")))
def test_what_repair_skips_ftfy_would_not_change(text: str) -> None:
    assert mend(text) == text
    assert ftfy.fix_encoding(text) == text


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_repair_of_one_line_is_what_ftfy_does(text: str) -> None:
    text = text.replace("\n", " ")
    expected = ftfy.fix_text(
        text,
        uncurl_quotes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        remove_control_chars=False,
        normalization=None,
        unescape_html="<" not in text,
    )
    assert mend(text) == expected


@given(st.text(), st.sampled_from(["NFC", "NFKC", "nfc"]))
def test_normal_forms(text: str, form: str) -> None:
    assert normalize(form)(text) == unicodedata.normalize(form.upper(), text)


def test_endless_marks_are_parted_as_the_standard_says() -> None:
    text = "e" + "\u0301\u0316" * 1000
    result = normalize("NFC")(text)
    assert unicodedata.is_normalized("NFC", result)
    assert max(len(run) for run in result.split("\u034f")) <= 31


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x00b\x07c\x7fd\x9fe", "abcde"),
        ("tab\tline\n", "tab\tline\n"),
        ("a\r\nb\rc\x0bd\x0ce\x85f\u2028g\u2029h\x1ei", "a\nb\nc\nd\ne\nf\ng\nh\ni"),
        ("\ufeffword co\u00adoperate zero\u200bwidth", "word cooperate zerowidth"),
        ("left\u200e right\u200f \u202eover\u202c \u2066iso\u2069", "left right over iso"),
        ("a\u200cb\u200dc", "abc"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian: the non-joiner is spelling
        ("क्\u200dष", "क्\u200dष"),  # Devanagari half form
        ("ක්\u200dර", "ක්\u200dර"),  # Sinhala
        ("👩\u200d👩\u200d👧 ❤\ufe0f\u200d🔥", "👩\u200d👩\u200d👧 ❤\ufe0f\u200d🔥"),
        ("👩\u200d text", "👩 text"),
        ("می\u200c\u200cخ", "می\u200cخ"),
        ("ភាសា\u200bខ្មែរ", "ភាសា\u200bខ្មែរ"),  # Khmer: the space of zero width parts words
        ("ไทย\u200b text", "ไทย text"),
        ("x\ufdd0\uffff\U000e0041y", "xy"),
        ("ü ß 中文 émigré 😀", "ü ß 中文 émigré 😀"),
    ],
)
def test_control(text: str, expected: str) -> None:
    assert remove_control(text) == expected


@given(st.text())
def test_nothing_unseen_is_left(text: str) -> None:
    result = remove_control(text)
    assert not any(unicodedata.category(c) == "Cc" and c not in "\t\n" for c in result)
    assert not set(result) & set("\u00ad\ufeff\u2060\u200e\u200f\u202e\u2028\u2029\r")
    assert result.split("\n") == (result + "\n").splitlines()
    assert remove_control(result) == result


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_what_is_seen_stays(text: str) -> None:
    assert remove_control(text) == text
