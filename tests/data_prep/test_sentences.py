"""Sentence starts: where they are, and that cutting there changes no token."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.sentences import full_width_tables, sentence_spans


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("first line\nsecond line\n\n  third ", ["first line", "second line", "third"]),
        ("\n\n windows\r\nline ends\r\n", ["windows", "line ends"]),
        ("He said: “Go.” She went.", ["He said: “Go.”", "She went."]),
        ("about 3. 5 of them, i.e. some", ["about 3. 5 of them, i.e. some"]),
        ("by J. Smith. He wrote", ["by J. Smith.", "He wrote"]),
        ("(It ended.) [Another] began", ["(It ended.)", "[Another] began"]),
        ("यह एक है। यह दो है।", ["यह एक है।", "यह दो है।"]),
        ("هل هذا سؤال؟ نعم.", ["هل هذا سؤال؟", "نعم."]),
        ("Und? Über alles", ["Und?", "Über alles"]),
        ("…. . \u3000", ["…. ."]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_sentences_begin_at_lines_and_after_sentence_ends(text, expected):
    assert sentences(text) == expected


def test_tokens_show_the_sentence_ends_that_no_space_follows():
    tables = full_width_tables(["好", "。", "##。", "。」", "」", "▁句。", "a.", "!", "##かな?"])
    assert tables.ends.tolist() == [False, True, True, True, False, True, False, False, False]
    assert tables.closes.tolist() == [False, True, True, True, True, False, False, False, False]
    assert tables.half_width_ends.tolist() == [False] * 7 + [True, True]
    assert tables.ideographic.tolist() == [True] + [False] * 7 + [True]
    assert all(table.dtype == np.bool_ for table in tables)
