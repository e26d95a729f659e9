"""Wikitext to plain text: what a reader sees, without tables, notes, pictures and templates."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

_NO_TEXT = frozenset(
    (
        "ref",
        "references",
        "gallery",
        "math",
        "chem",
        "ce",
        "score",
        "timeline",
        "hiero",
        "graph",
        "imagemap",
        "categorytree",
        "inputbox",
        "templatedata",
        "templatestyles",
        "section",
        "mapframe",
        "maplink",
        "syntaxhighlight",
        "source",
        "pre",
        "style",
        "script",
        "table",
        "caption",
        "tr",
        "td",
        "th",
    )
)
"""Tags whose content is no running text; ``table`` is also what ``{|`` becomes."""

_HEADING = "\x00"
"""Marks a heading's line, with its level after it; wikitext cannot hold this character."""

_SWITCH = re.compile(r"__[^\W\d_a-z][^\Wa-z]*__")
_OTHER_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z-]+)?")
_HOLLOW = ((re.compile(r"\(\s*[,;:]+\s*"), "("), (re.compile(r"\s*[,;:]\s*\)"), ")"), (re.compile(r" ?\(\s*\)"), ""))
"""What templates leave behind in brackets: pronunciations, dates."""


def plain_text(wikitext: str, dropped_links: Collection[str] = ("file", "image", "category")) -> str:
    """Return the text of a page: paragraphs, list items and headings, one a line; headings without text are left out.

    Args:
        wikitext: as the dump has it.
        dropped_links: lower-case names of the namespaces whose links are not shown as text.

    Raises:
        ValueError: the markup is nested too deeply or defeats the parser.
    """
    import mwparserfromhell
    from mwparserfromhell.parser import ParserError

    try:
        text = _render(mwparserfromhell.parse(wikitext), dropped_links)
    except (ParserError, RecursionError) as error:
        raise ValueError(f"unparsable wikitext: {type(error).__name__}") from error
    text = _SWITCH.sub("", text)
    for pattern, replacement in _HOLLOW:
        text = pattern.sub(replacement, text)
    lines = list(_with_text([" ".join(line.split()) for line in text.split("\n")]))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(reversed(lines))).strip("\n")


def _render(code: Any, dropped_links: Collection[str]) -> str:
    from mwparserfromhell.nodes import ExternalLink, Heading, HTMLEntity, Tag, Text, Wikilink

    parts = []
    for node in code.nodes:
        if isinstance(node, Text):
            parts.append(node.value)
        elif isinstance(node, Wikilink):
            parts.append(_link(node, dropped_links))
        elif isinstance(node, Tag):
            parts.append(_tag(node, dropped_links))
        elif isinstance(node, HTMLEntity):
            parts.append(node.normalize())
        elif isinstance(node, Heading):
            parts.append(f"{_HEADING}{node.level}{_render(node.title, dropped_links)}")
        elif isinstance(node, ExternalLink):
            shown = node.title if node.brackets else node.url
            parts.append(_render(shown, dropped_links) if shown else "")
    return "".join(parts)


def _link(node: Any, dropped_links: Collection[str]) -> str:
    title = str(node.title).strip()
    prefix = title.partition(":")[0].strip().lower() if ":" in title else ""
    if prefix in dropped_links or (node.text is None and _OTHER_LANGUAGE.fullmatch(prefix)):
        return ""
    if node.text is not None:
        return _render(node.text, dropped_links)
    return _render(node.title, dropped_links).lstrip(":")


def _tag(node: Any, dropped_links: Collection[str]) -> str:
    name = str(node.tag).strip().lower()
    if name in ("br", "hr"):
        return "\n"
    if name in _NO_TEXT or node.contents is None:
        return ""
    return str(node.contents) if name == "nowiki" else _render(node.contents, dropped_links)


def _with_text(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines from the last to the first, without headings that nothing follows."""
    level_below, text_below = 0, False
    for line in reversed(list(lines)):
        if not line.startswith(_HEADING):
            text_below = text_below or bool(line)
            yield line.replace(_HEADING, "")
            continue
        level = int(line[1])
        if text_below or level_below > level:
            level_below, text_below = level, False
            yield line[2:].strip()
