"""Removal of markup: tags go, prose that looks a little like tags stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.clean.markup import remove_markup


@pytest.mark.parametrize(
    "text",
    [
        "if a < b and c > d",
        "if a<b and c>d then",
        "Vec<T> and HashMap<String, Vec<u8>>",
        "1 < 2, 3 > 2, x <- 5, a <= b, <3",
        "see <https://example.org/x> or <john@example.org>",
        "#include <stdio.h>",
        "usage: program <file> [<option>]",
        "AT&T, R&D, page?a=1&copy=2, &c., & ;",
        "the <script> tag begins a script",
        "an open comment <!-- and so on",
        "&#" + "1" * 5000 + ";",
    ],
)
def test_prose_stays(text: str) -> None:
    assert remove_markup(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>one</p><p>two <b>bold</b></p>", "one\n\ntwo bold"),
        ("one<br>two<br/>three<BR />four", "one\ntwo\nthree\nfour"),
        ("<a href='x' class=y>link</a> <img src=a.png alt=\"b > c\"> end", "link  end"),
        ("a<script type='x'>if (a<b) { '<p>' }</script>b<STYLE>p{}</STYLE>c", "a\n\nb\n\nc"),
        ("a<!-- b <p> -->c", "ac"),
        ("<?xml version='1.0'?><!DOCTYPE html><doc><t>T</t> body</doc>", "T body"),
        ("<![CDATA[a < b]]>", "a < b"),
        ("<ul><li>one<li>two</ul>", "one\ntwo"),
        ("<table><tr><td>a<td>b</table>", "\ta\tb"),
        ("<input disabled>x<div hidden class=y>z</div>", "x\nz"),
        ("<ns:tag a='1'>x</ns:tag>", "x"),
        ("&lt;b&gt; &amp;amp; &eacute; &#233; &#xe9; &nbsp;&hearts;", "<b> &amp; é é é \xa0♥"),
        ("<p>a</p>\n\n\n\n<p>b</p>", "a\n\nb"),
    ],
)
def test_markup_goes(text: str, expected: str) -> None:
    assert remove_markup(text) == expected


def test_a_pair_of_tags_is_markup_and_a_single_one_is_not() -> None:
    assert remove_markup("<note>text</note>") == "text"
    assert remove_markup("<note>text") == "<note>text"


@given(st.text(st.sampled_from("ab <>&;/!-='\"\n#x1") | st.sampled_from("pé")))
def test_any_text_comes_through(text: str) -> None:
    result = remove_markup(text)
    assert set(result) <= set(text) | set("\n\t<>&\"'\x01\x11\ufffd") | {chr(n) for n in range(0x120)}
    if not set(text) & set("<&"):
        assert result == text


@given(st.lists(st.sampled_from(["one", "two & three", "a < b", "x > y", "5"]), min_size=1))
def test_words_survive_their_markup(words: list[str]) -> None:
    page = "<html><body>" + "".join(f"<p class='x'><em>{word}</em></p>\n" for word in words) + "</body></html>"
    assert [line for line in remove_markup(page).split("\n") if line] == words
