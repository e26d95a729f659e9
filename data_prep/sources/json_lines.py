"""JSON lines: one object per line, its text in one field."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import NoReturn

from data_prep.sources.base import Document, Piece, text_of, valid_unicode
from data_prep.sources.files import CutFileSource
from electra_ds.errors import DataError


class JsonLinesSource(CutFileSource):
    """A document per line; `source` and `language` (or `lang`) are taken from the object where it has them."""

    def documents(self, piece: Piece, dropped: Counter[str]) -> Iterator[Document]:
        """See `Source.documents`; blank lines are passed over."""
        offset, data = self.content(piece, dropped)
        field, source, language = self.corpus.text_field or "text", self.corpus.source or "", self.corpus.language or ""
        # In UTF-8 only an escape can spell a surrogate; most files have none.
        valid = valid_unicode if b"\\u" in data or self.corpus.encoding != "utf-8" else str
        for line in data.split(b"\n"):
            if len(line) > self.limit:
                dropped["too long"] += 1
            elif line and not line.isspace():
                value = self._object(line, offset)
                text = value.get(field)
                if not isinstance(text, str):
                    self._refuse(value, field, offset)
                own_source, own_language = value.get("source"), value.get("language")
                if not isinstance(own_language, str):
                    own_language = value.get("lang")
                yield Document(
                    valid(text),
                    valid(own_source) if isinstance(own_source, str) else source,
                    valid(own_language) if isinstance(own_language, str) else language,
                    self.origin,
                )
            offset += len(line) + 1

    def _object(self, line: bytes, offset: int) -> dict[str, object]:
        try:
            value = json.loads(self.decode(line, offset))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.place(offset)}: not JSON ({error}); expected one JSON object per line") from error
        if not isinstance(value, dict):
            raise DataError(f"{self.place(offset)}: a {type(value).__name__}; expected one JSON object per line")
        return value

    def _refuse(self, value: dict[str, object], field: str, offset: int) -> NoReturn:
        where = self.place(offset)
        if field not in value:
            fields = ", ".join(map(str, value)) or "none"
            raise DataError(
                f"{where}: no field '{field}' (its fields: {fields}); name the text's field by --text_field"
            )
        text_of(value[field], field, where)
        raise AssertionError(where)
