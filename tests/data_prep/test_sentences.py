"""Sentence starts: where they are, and that cutting there changes no token."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.sentences import full_width_tables, plain_spaces, sentence_starts, space_mask


def sentences(text: str) -> list[str]:
    data = plain_spaces(text.encode())
    array = np.frombuffer(data, np.uint8)
    starts = sentence_starts(array, space_mask(array)).tolist()
    return [data[start:end].decode().strip() for start, end in zip(starts, [*starts[1:], len(data)], strict=False)]


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
        ("“No,” said I. “Why?” He left.", ["“No,” said I.", "“Why?”", "He left."]),
        ("end.\u00a0Next.\u3000Also", ["end.", "Next.", "Also"]),
        ("a.\t \t B", ["a.", "B"]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_sentences_begin_at_lines_and_after_sentence_ends(text, expected):
    assert sentences(text) == expected


BREAK = re.compile(r"(?P<line>[ \t\r]*\n[ \t\r\n]*)|(?P<end>[.!?…؟۔।॥։。！？][)\]\"'”’»›」』]{0,7})[ \t\r]+")


def slow_sentences(text: str) -> list[str]:
    """The rule, character by character."""
    text = text.replace("\u00a0", " ").replace("\u3000", " ")
    found, start = [], 0
    for match in BREAK.finditer(text):
        if match["line"]:
            found.append(text[start : match.start()])
            start = match.end()
            continue
        after = text[match.end() : match.end() + 1]
        letter = after.isalpha() and not after.islower()
        before = text[: match.start()]
        initial = letter and match["end"][0] == "." and before[-1:].isupper() and not before[-2:-1].isalnum()
        if (letter or (after and after in "\"'“‘«‹„¿¡([{「『—–-•*#")) and not initial:
            found.append(text[start : match.end("end")])
            start = match.end()
    found.append(text[start:])
    return [sentence.strip(" \t\r\n") for sentence in found if sentence.strip(" \t\r\n")]


PIECES = [*" \t\n\r.!?…؟।。)\"'”»“(-aBÉéßяЯ中あ\u00a0\u3000", "  ", "\r\n", "J. ", "..", '."', ". A", "𐐀", "𠀀"]


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@example("x" + " " * 50 + "\n" * 3 + "y. " + " " * 50 + "Z")
@example("𠀀J. J. ")
def test_the_rule_over_bytes_is_the_rule_over_characters(text):
    assert sentences(text) == slow_sentences(text)


def test_tokens_show_the_sentence_ends_that_no_space_follows():
    tables = full_width_tables(["好", "。", "##。", "。」", "」", "▁句。", "a.", "!", "##かな?"])
    assert tables.ends.tolist() == [False, True, True, True, False, True, False, False, False]
    assert tables.closes.tolist() == [False, True, True, True, True, False, False, False, False]
    assert tables.half_width_ends.tolist() == [False] * 7 + [True, True]
    assert tables.ideographic.tolist() == [True] + [False] * 7 + [True]
    assert all(table.dtype == np.bool_ for table in tables)
