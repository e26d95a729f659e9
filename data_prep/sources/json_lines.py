"""JSON lines: one object per line, its text in one field, and perhaps its translation in another."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from data_prep.config import CorpusConfig, ParallelConfig, PrepConfig
from data_prep.sources.base import Document, Piece, text_of, valid_unicode
from data_prep.sources.files import CutFileSource
from data_prep.sources.stored import StoredFile
from electra_ds.errors import DataError


class JsonLinesSource(CutFileSource):
    """A document per line; `source` and `language` (or `lang`) are taken from the object where it has them.

    Of a translation the language is that of `language_pair` (or `lang_pair`).
    """

    def __init__(self, file: StoredFile, corpus: CorpusConfig, config: PrepConfig) -> None:
        """See `CutFileSource`."""
        super().__init__(file, corpus, config)
        self.parallel = corpus.parallel or ParallelConfig()
        self.pairs = bool(self.parallel.text_field)

    def documents(self, piece: Piece, dropped: Counter[str]) -> Iterator[Document]:
        """See `Source.documents`; blank lines are passed over."""
        field, source, language = self.corpus.text_field or "text", self.corpus.source or "", self.corpus.language or ""
        for offset, value, valid in self.objects(piece, dropped):
            text = value.get(field)
            if not isinstance(text, str):
                self._refuse(value, field, offset, "--text_field")
            found = value.get("source")
            found = valid(found) if isinstance(found, str) else source
            translation = self._translation(value, found, offset, valid) if self.pairs else None
            yield Document(valid(text), found, _language(value, "", language, valid), self.origin, translation)

    def objects(
        self, piece: Piece, dropped: Counter[str]
    ) -> Iterator[tuple[int, dict[str, Any], Callable[[str], str]]]:
        """Yield the objects of a piece: offset in the decompressed file, value, and what makes a text of it valid.

        Raises:
            DataError: a line is not a JSON object; names file and line.
        """
        offset, data = self.content(piece, dropped)
        # In UTF-8 only an escape can spell a surrogate; most files have none.
        valid = valid_unicode if b"\\u" in data or self.corpus.encoding != "utf-8" else str
        for line in data.split(b"\n"):
            if len(line) > self.limit:
                dropped["too long"] += 1
            elif line and not line.isspace():
                yield offset, self._object(line, offset), valid
            offset += len(line) + 1

    def _translation(self, value: dict[str, Any], source: str, offset: int, valid: Callable[[str], str]) -> Document:
        text = value.get(self.parallel.text_field)
        if not isinstance(text, str):
            self._refuse(value, self.parallel.text_field, offset, "--parallel.text_field")
        language = _language(value, "_pair", self.parallel.language, valid)
        return Document(valid(text), source, language, self.origin)

    def _object(self, line: bytes, offset: int) -> dict[str, Any]:
        try:
            value = json.loads(self.decode(line, offset))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.place(offset)}: not JSON ({error}); expected one JSON object per line") from error
        if not isinstance(value, dict):
            raise DataError(f"{self.place(offset)}: a {type(value).__name__}; expected one JSON object per line")
        return value

    def _refuse(self, value: dict[str, Any], field: str, offset: int, option: str) -> NoReturn:
        where = self.place(offset)
        if field not in value:
            fields = ", ".join(map(str, value)) or "none"
            raise DataError(f"{where}: no field '{field}' (its fields: {fields}); name the text's field by {option}")
        text_of(value[field], field, where, option)
        raise AssertionError(where)


def _language(value: dict[str, Any], suffix: str, default: str, valid: Callable[[str], str]) -> str:
    found = value.get(f"language{suffix}")
    if not isinstance(found, str):
        found = value.get(f"lang{suffix}")
    return valid(found) if isinstance(found, str) else default
