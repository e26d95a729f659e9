"""MediaWiki XML dumps (``pages-articles.xml.bz2`` of Wikipedia and its like)."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple
from xml.etree import ElementTree

from data_prep.sources.base import Document, Piece, all_pieces, valid_unicode
from data_prep.sources.cut import Cutter, MarkerBorder, cut_stream
from data_prep.sources.files import FileSource
from data_prep.sources.wikitext import plain_text
from electra_ds.errors import DataError

_BEGIN, _END, _END_OF_DUMP = b"<page>", b"</page>", b"</mediawiki>"
_LONGEST_HEADER = 1 << 20
_LANGUAGE = re.compile(r"""<mediawiki\s[^>]*xml:lang=["']([^"']*)""")
_NAMESPACE = re.compile(r"""<namespace\s[^>]*key=["'](-?\d+)["'][^>]*>([^<]*)""")
_NOT_SHOWN = ("-2", "6", "14")
"""Keys of the namespaces for media, files and categories."""


class Header(NamedTuple):
    """What a dump says before its first page."""

    language: str
    dropped_links: frozenset[str]
    """Lower-case names of the namespaces whose links are not shown as text."""


class MediaWikiSource(FileSource):
    """A document per article: its title, a blank line, and its text without markup (the newest revision's).

    Dropped and counted: redirects, pages of other namespaces (talk, users, templates), pages that are not wikitext or
    defeat its parser, and pages without text. `language` is the dump's own if it names one.

    A page is parsed by itself, without what stands before it: there is no document type, and so no entity, to expand.
    """

    streamed = True

    def pieces(self, piece_bytes: int, wanted: Callable[[int], bool] = all_pieces) -> Iterator[Piece]:
        """See `Source.pieces`; the payload is an offset, the bytes of pages, and the dump's header."""
        self.position = 0
        chunks = self.stream()
        head = bytearray()
        while (start := head.find(_BEGIN)) < 0 and len(head) < _LONGEST_HEADER and (chunk := next(chunks, b"")):
            head += chunk
        start = len(head) if start < 0 else start
        header = self._header(bytes(head[:start]))

        pages = Cutter(self._pages(bytes(head), start, chunks), MarkerBorder(_END), self.limit, start)
        for piece in cut_stream(pages, piece_bytes, wanted):
            yield piece._replace(payload=piece.payload and (*piece.payload, header))

    def documents(self, piece: Piece, dropped: Counter[str]) -> Iterator[Document]:
        """See `Source.documents`."""
        if piece.payload is None:
            return
        offset, data, header = piece.payload
        source, language = self.corpus.source or "", header.language or self.corpus.language or ""
        end = 0
        while (start := data.find(_BEGIN, end)) >= 0:
            end = data.find(_END, start) + len(_END)
            if end - start > self.limit:
                dropped["too long"] += 1
                continue
            page = self._parse(data[start:end], offset + start)
            text = self._article(page, header, dropped)
            if text:
                yield Document(text, source, language, self.origin)

    def _article(self, page: ElementTree.Element, header: Header, dropped: Counter[str]) -> str:
        revision = page.findall("revision")[-1:]
        if page.findtext("ns", "0").strip() != "0":
            dropped["other namespace"] += 1
        elif page.find("redirect") is not None:
            dropped["redirect"] += 1
        elif revision and revision[0].findtext("model", "wikitext") != "wikitext":
            dropped["not wikitext"] += 1
        else:
            try:
                text = plain_text(revision[0].findtext("text") or "" if revision else "", header.dropped_links)
            except ValueError:
                dropped["unparsable wikitext"] += 1
                return ""
            if text:
                return valid_unicode(f"{page.findtext('title', '')}\n\n{text}")
            dropped["page without text"] += 1
        return ""

    def _pages(self, head: bytes, start: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield what follows the header; a dump without its end is cut short even if it is cut between two pages."""
        yield head[start:]
        tail = head[-1000:]
        for chunk in chunks:
            tail = (tail + chunk)[-1000:]
            yield chunk
        if _END_OF_DUMP not in tail:
            raise DataError(f"{self.name}: cut short (no </mediawiki> at its end); fetch the file again")

    def _header(self, data: bytes) -> Header:
        text = data.decode("utf-8", "replace")
        if "<mediawiki" not in text:
            raise DataError(f"{self.name}: no MediaWiki dump (no <mediawiki> element); of XML, only these are read")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise DataError(f"{self.name}: declares a document type, which MediaWiki dumps do not; it is not read")
        names = {html.unescape(name).lower() for key, name in _NAMESPACE.findall(text) if key in _NOT_SHOWN}
        language = _LANGUAGE.search(text)
        return Header(
            html.unescape(language[1]) if language else "",
            frozenset({"media", "file", "image", "category", *names} - {""}),
        )

    def _parse(self, page: bytes, offset: int) -> ElementTree.Element:
        try:
            try:
                return ElementTree.fromstring(page)
            except ElementTree.ParseError:
                if not self.replace_errors:
                    raise
                return ElementTree.fromstring(page.decode("utf-8", "replace"))
        except ElementTree.ParseError as error:
            raise DataError(
                f"{self.place(offset)}: a page that is not well-formed XML ({error}, counted from the page's start); "
                "fetch the dump again"
            ) from error
