"""Plain text files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

from data_prep.config import CorpusConfig, PrepConfig
from data_prep.sources.base import Document, Piece, all_pieces, valid_unicode
from data_prep.sources.cut import BLANK_LINE, LINES, LONGEST_BLANK_LINE, PARAGRAPHS
from data_prep.sources.files import CutFileSource
from data_prep.sources.stored import StoredFile

_BETWEEN_PARAGRAPHS = re.compile(rb"\n" + BLANK_LINE + rb"+")
_BLANK_AT_START = re.compile(BLANK_LINE + rb"+")
_BLANK_AT_END = re.compile(rb"(?:^|\n)[ \t\r\f\v]{0,%d}\Z" % LONGEST_BLANK_LINE)


class TextSource(CutFileSource):
    """A document per file, per line, or per paragraph (lines between blank lines)."""

    def __init__(self, file: StoredFile, corpus: CorpusConfig, config: PrepConfig) -> None:
        """`file`: a .txt file, perhaps compressed."""
        super().__init__(file, corpus, config)
        self.border = PARAGRAPHS if corpus.text_documents == "paragraph" else LINES
        if corpus.text_documents == "file":
            self.streamed = False

    def pieces(self, piece_bytes: int, wanted: Callable[[int], bool] = all_pieces) -> Iterator[Piece]:
        """See `CutFileSource.pieces`; a document per file is one piece without payload."""
        if self.corpus.text_documents == "file":
            self.position = self.size
            yield Piece(0, None)
        else:
            yield from super().pieces(piece_bytes, wanted)

    def documents(self, piece: Piece, dropped: Counter[str]) -> Iterator[Document]:
        """See `Source.documents`."""
        texts = {"file": self._whole, "line": self._lines, "paragraph": self._paragraphs}
        source, language = self.corpus.source or "", self.corpus.language or ""
        for text in texts[self.corpus.text_documents or "file"](piece, dropped):
            yield Document(valid_unicode(text), source, language, self.origin)

    def _whole(self, piece: Piece, dropped: Counter[str]) -> Iterator[str]:
        if not self.compressed and self.size > self.limit:
            dropped["too long"] += 1
            return
        data = bytearray()
        for chunk in self.stream():
            data += chunk
            if len(data) > self.limit:
                dropped["too long"] += 1
                return
        mark = self.mark_length(data)
        yield self._join(self.decode(bytes(data[mark:]), mark).removesuffix("\n"))

    def _lines(self, piece: Piece, dropped: Counter[str]) -> Iterator[str]:
        offset, data = self.content(piece, dropped)
        if not data:
            return
        for line in data.removesuffix(b"\n").split(b"\n"):
            if len(line) > self.limit:
                dropped["too long"] += 1
            else:
                yield self.decode(line, offset).removesuffix("\r")
            offset += len(line) + 1

    def _paragraphs(self, piece: Piece, dropped: Counter[str]) -> Iterator[str]:
        offset, data = self.content(piece, dropped)
        for start, end in _paragraph_bounds(data):
            if end - start > self.limit:
                dropped["too long"] += 1
            else:
                yield self._join(self.decode(data[start:end], offset + start))

    def _join(self, text: str) -> str:
        return text.replace("\r\n", "\n").removesuffix("\r") if "\r" in text else text


def _paragraph_bounds(data: bytes) -> Iterator[tuple[int, int]]:
    start = 0
    if leading := _BLANK_AT_START.match(data):
        start = leading.end()
    for gap in _BETWEEN_PARAGRAPHS.finditer(data, start):
        yield start, gap.start()
        start = gap.end()
    end = len(data)
    if trailing := _BLANK_AT_END.search(data, max(start - 1, end - LONGEST_BLANK_LINE - 2, 0)):
        end = trailing.start()
    if start < end:
        yield start, end
