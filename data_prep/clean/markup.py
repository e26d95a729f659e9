"""Removal of HTML and XML markup from text that is mostly prose.

Parsers (html.parser, lexbor, resiliparse) read whatever looks like a tag: ``a<b and c>d`` becomes ``ad`` and ``Vec<T>``
becomes ``Vec``, and html.parser takes quadratic time on unclosed tags. Here something counts as a tag only if it could
be nothing else, and each character is looked at a bounded number of times.
"""

from __future__ import annotations

import html
import re

_NAME = r"[A-Za-z][\w:.-]{0,63}"
_VALUE = r"""(?:"[^"<]*+"|'[^'<]*+'|[^\s"'=<>`]++)"""
# Attributes without a value are those that HTML has: in "a<b and c>d", "and" is none.
_FLAG = (
    "(?:allowfullscreen|async|autofocus|autoplay|checked|compact|controls|default|defer|disabled|hidden|inert|ismap|loop"
    "|multiple|muted|nohref|nomodule|noshade|novalidate|nowrap|open|playsinline|readonly|required|reversed|selected)"
)
_ATTRIBUTE = rf"\s++(?:[\w:@.-]++\s*+=\s*+{_VALUE}|{_FLAG}(?=[\s/>]))"
_TAG = re.compile(
    "<(?:"
    r"!--(?P<comment>)"
    r"|!\[CDATA\[(?P<cdata>)"
    r"|!(?:DOCTYPE|ELEMENT|ATTLIST|ENTITY)\s[^<>]*+>"
    r"|\?[A-Za-z][^<>]*+>"
    rf"|/(?P<close>{_NAME})\s*+>"
    rf"|(?P<open>{_NAME})(?P<attributes>(?:{_ATTRIBUTE})*+)\s*+(?P<empty>/?+)>"
    ")",
    re.IGNORECASE,
)
_NAMES = re.compile(rf"<(/?)({_NAME})(?=[\s/>])")


def _elements(names: str) -> frozenset[str]:
    return frozenset(names.split())


_ALONE = _elements("br col colgroup dd dt hr img li p tbody td tfoot th thead tr wbr")
"""Elements whose other tag may be left out (HTML standard, section 13.1.2.4) or does not exist; without those that are
also what a manual writes for something to fill in, such as ``<option>`` and ``<source>``."""
_BLOCKS = _elements(
    "address article aside blockquote body br center dd details dialog div dl dt fieldset figcaption figure footer "
    "form h1 h2 h3 h4 h5 h6 head header hr html legend li main menu nav ol option p pre script section select style "
    "summary table tbody template textarea tfoot thead title tr ul"
)
"""Elements that begin a new line (HTML standard, section 15.3)."""
_CELLS = _elements("td th")
_UNSEEN = _elements("script style")
"""Elements whose content is no text."""

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
"""With the semicolon: ``AT&T`` and ``?a=1&copy=2`` stay. Bounded: `html.unescape` fails on numbers without end."""


def remove_markup(text: str) -> str:
    """Remove tags, comments, instructions, and scripts and styles with their content; decode entities.

    A tag is removed if it has attributes as HTML has them, if it closes itself (``<br/>``), if its element may stand
    alone in HTML (``<p>``), or if its other tag occurs in the document as well: ``<T>`` in prose about generic types
    stays. Block elements become line ends, cells of tables tabs. Takes time linear in the text.
    """
    if "<" in text:
        text = _without_tags(text)
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text) if "&" in text else text


def _without_tags(text: str) -> str:
    opened: set[str] = set()
    closed: set[str] = set()
    for slash, name in _NAMES.findall(text):
        (closed if slash else opened).add(name.lower())
    pairs = (opened & closed) | _ALONE
    parts: list[str] = []
    absent: set[str] = set()
    done = position = 0
    while (tag := _TAG.search(text, position)) is not None:
        position = tag.end()
        name = (tag["close"] or tag["open"] or "").lower()
        end = tag.end()
        if tag["comment"] is not None or tag["cdata"] is not None:
            mark = "-->" if tag["comment"] is not None else "]]>"
            found = _find(text, mark, end, absent)
            if found < 0:
                continue
            kept = "" if tag["comment"] is not None else text[end:found]
            end = found + len(mark)
        elif name and not (name in pairs or tag["empty"] or tag["attributes"]):
            continue
        else:
            kept = "\n" if name in _BLOCKS else "\t" if name in _CELLS and tag["open"] else ""
            if name in _UNSEEN and tag["open"] and not tag["empty"]:
                found = _find(text, f"</{name}", end, absent)
                end = end if found < 0 else found
        parts += (text[done : tag.start()], kept)
        done = position = end
    return _tidy("".join((*parts, text[done:]))) if parts else text


def _find(text: str, mark: str, start: int, absent: set[str]) -> int:
    """Return where a mark is next, in any case of its letters, or -1; that there is none left is found out once."""
    found = None if mark in absent else re.compile(re.escape(mark), re.IGNORECASE).search(text, start)
    if found is None:
        absent.add(mark)
        return -1
    return found.start()


def _tidy(text: str) -> str:
    """Strip lines at their ends, and leave one empty line of several that stand together."""
    lines: list[str] = []
    for line in text.split("\n"):
        line = line.rstrip()
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines).strip("\n")
