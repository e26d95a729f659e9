"""Two text files that are translations of each other line by line, as Moses and OPUS have them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from data_prep.config import CorpusConfig, ParallelConfig, PrepConfig
from data_prep.sources.base import Document, Piece, Source, all_pieces, valid_unicode
from data_prep.sources.compression import COMPRESSIONS
from data_prep.sources.files import FileSource
from data_prep.sources.stored import StoredFile
from data_prep.sources.text import TextSource
from electra_ds.errors import DataError

_LANGUAGE = re.compile(r"\.([a-z]{2,3}(?:[-_][A-Za-z0-9]{2,4})*)$")
_NO_LANGUAGES = ("txt", "src", "tgt", "ref", "raw", "tok")

Line = bytes | None
"""A line without its end; None if it is too long."""


class MosesSource(Source):
    """A document per line of the first file; its translation is the same line of the second.

    The files are read side by side from the beginning, as only the count of lines before a line tells its partner.
    """

    streamed = True
    pairs = True

    def __init__(self, files: tuple[StoredFile, StoredFile], corpus: CorpusConfig, config: PrepConfig) -> None:
        """`files`: each perhaps compressed.

        Raises:
            DataError: a file has no bytes.
        """
        super().__init__()
        lines = replace(corpus, text_documents="line")
        self.files = TextSource(files[0], lines, config), TextSource(files[1], lines, config)
        self.name = "+".join(file.name for file in files)
        self.size = sum(file.size for file in files)
        parallel = corpus.parallel or ParallelConfig()
        self._languages = tuple(
            given or _language_of(file.base_name)
            for given, file in zip((corpus.language, parallel.language), files, strict=True)
        )
        self._source = corpus.source or ""

    def identity(self) -> dict[str, Any]:
        """See `Source.identity`; tells the size of each file."""
        return {**super().identity(), "files": [file.size for file in self.files]}

    def version(self) -> str:
        """Return what tells that one of the files was written anew."""
        return " ".join(file.version() for file in self.files)

    def pieces(self, piece_bytes: int, wanted: Callable[[int], bool] = all_pieces) -> Iterator[Piece]:
        """See `Source.pieces`; the payload is the number of the first line, and the lines of both files.

        Raises:
            DataError: one of the files has more lines than the other, or is cut short or corrupt.
        """
        number = first = size = 0
        held: list[tuple[Line, Line]] = []
        for line, pair in enumerate(self._aligned()):
            # A full piece waits for the next line, to know whether it is the last.
            if size >= piece_bytes:
                if wanted(number):
                    yield Piece(number, (first, held))
                number, first, size, held = number + 1, line, 0, []
            if wanted(number):
                held.append(pair)
            size += sum(len(text) + 1 for text in pair if text is not None)
            self.position = sum(file.position for file in self.files)
        self.position = self.size
        yield Piece(number, (first, held) if wanted(number) else None)

    def documents(self, piece: Piece, dropped: Counter[str]) -> Iterator[Document]:
        """See `Source.documents`; a pair is too long if either line is."""
        first, pairs = piece.payload or (0, [])
        for number, pair in enumerate(pairs, first + 1):
            if None in pair:
                dropped["too long"] += 1
                continue
            texts = [self._text(side, data, number) for side, data in enumerate(pair)]
            origins = [file.origin for file in self.files]
            translation = Document(texts[1], self._source, self._languages[1], origins[1])
            yield Document(texts[0], self._source, self._languages[0], origins[0], translation)

    def _aligned(self) -> Iterator[tuple[Line, Line]]:
        missing: Any = object()
        counts = [0, 0]
        for pair in zip_longest(*(_lines(file) for file in self.files), fillvalue=missing):
            counts = [count + (text is not missing) for count, text in zip(counts, pair, strict=True)]
            if counts[0] == counts[1]:
                yield pair
        if counts[0] != counts[1]:
            told = " and ".join(f"{file.name} {count:,}" for file, count in zip(self.files, counts, strict=True))
            raise DataError(
                f"moses: {told} lines; each line must be the translation of the same line of the other: fetch or align "
                "the files again"
            )

    def _text(self, side: int, data: bytes, number: int) -> str:
        file = self.files[side]
        encoding = file.corpus.encoding or "utf-8"
        if number == 1:
            data = data[file.mark_length(data) :]
        try:
            return valid_unicode(data.decode(encoding)).removesuffix("\r")
        except UnicodeDecodeError as error:
            if file.replace_errors:
                return valid_unicode(data.decode(encoding, "replace")).removesuffix("\r")
            raise DataError(
                f"{file.name}:{number}: not {encoding.upper()} ({error.reason}: "
                f"0x{data[error.start : error.start + 1].hex()}); name the encoding by --encoding, convert the file "
                "with iconv, or give --encoding_errors replace"
            ) from error


def _lines(file: FileSource) -> Iterator[Line]:
    """Yield the lines of a file; of one that is too long no more than the limit and a chunk is held."""
    held, too_long = bytearray(), False
    for chunk in file.stream():
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            whole = not too_long and len(held) + len(part) <= file.limit
            yield bytes(held + part) if whole else None
            held.clear()
            too_long = False
        too_long = too_long or len(held) + len(rest) > file.limit
        if too_long:
            held.clear()
        else:
            held += rest
    if held or too_long:
        yield None if too_long else bytes(held)


def _language_of(name: str) -> str:
    """The language that a file's ending names, if it names one."""
    for ending in COMPRESSIONS:
        name = name.removesuffix(ending)
    found = _LANGUAGE.search(name)
    return found[1] if found and found[1] not in _NO_LANGUAGES else ""
