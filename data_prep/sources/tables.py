"""Rows of Arrow tables as documents: what Parquet, Arrow files and `datasets` have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_prep.config import CorpusConfig, PrepConfig
from data_prep.sources.base import Document, Piece, text_of
from electra_ds.errors import DataError

LABELS = ("source", "language", "lang")
"""Columns that tell where a row is from, where a table has them."""

ROWS_AT_ONCE = 1000
"""Rows that become Python strings at a time."""


class RowReader(NamedTuple):
    """What is needed to make documents of rows."""

    name: str
    """For messages."""
    origin: str
    field: str
    source: str
    language: str
    limit: int
    replace_errors: bool

    @classmethod
    def of(cls, name: str, origin: str, corpus: CorpusConfig, config: PrepConfig) -> RowReader:
        """Take what a corpus says."""
        return cls(
            name,
            origin,
            corpus.text_field or "text",
            corpus.source or "",
            corpus.language or "",
            config.max_document_bytes,
            config.encoding_errors == "replace",
        )

    def columns(self, schema: Any) -> list[str]:
        """Return the columns to read of an Arrow schema.

        Raises:
            DataError: it has no text column, or that does not hold text.
        """
        if self.field not in schema.names:
            raise DataError(
                f"{self.name}: no column '{self.field}' (its columns: {', '.join(schema.names)}); "
                "name the text's column by --text_field"
            )
        if not _holds_text(schema.field(self.field).type):
            raise DataError(
                f"{self.name}: the column '{self.field}' holds {schema.field(self.field).type}; expected strings "
                "(--text_field names the column)"
            )
        return [self.field, *(name for name in LABELS if name in schema.names and name != self.field)]

    def documents(self, table: Any, first_row: int, dropped: Counter[str]) -> Iterator[Document]:
        """Yield the documents of a table or record batch, whose first row has the number `first_row` for messages.

        Raises:
            DataError: a row lacks its text, or is not valid UTF-8 and the configuration does not say to replace.
        """
        for start in range(0, table.num_rows, ROWS_AT_ONCE):
            part = table.slice(start, ROWS_AT_ONCE)
            texts, too_long = self._texts(part, first_row + start)
            labels = {name: self._strings(part.column(name)) for name in LABELS if name in part.schema.names}
            none: Sequence[str | None] = [None] * part.num_rows
            sources = labels.get("source", none)
            languages, others = labels.get("language", none), labels.get("lang", none)
            for row, text in enumerate(texts):
                if row in too_long:
                    dropped["too long"] += 1
                    continue
                if text is None:
                    text_of(text, self.field, f"{self.name} row {first_row + start + row}")
                    continue
                source, language = sources[row], languages[row] or others[row]
                yield Document(
                    text,
                    self.source if source is None else source,
                    self.language if language is None else language,
                    self.origin,
                )

    def _texts(self, part: Any, first_row: int) -> tuple[list[str | None], set[int]]:
        """Return the texts, and which rows are too long; theirs are not loaded."""
        import pyarrow.compute as pc

        column = as_binary(part.column(self.field))
        lengths = pc.binary_length(column)
        too_long: set[int] = set()
        if (pc.max(lengths).as_py() or 0) > self.limit:
            over = pc.fill_null(pc.greater(lengths, self.limit), False)
            too_long = set(np.flatnonzero(np.asarray(over)).tolist())
            column = pc.if_else(over, None, column)
        return [
            None if data is None else self._decode(data, first_row + row) for row, data in enumerate(column.to_pylist())
        ], too_long

    def _decode(self, data: bytes, row: int) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            if self.replace_errors:
                return data.decode("utf-8", "replace")
            raise DataError(
                f"{self.name} row {row}: not UTF-8 ({error.reason}: 0x{data[error.start : error.start + 1].hex()}); "
                "write the table again with valid strings, or give --encoding_errors replace"
            ) from error

    def _strings(self, column: Any) -> list[str | None]:
        if not _holds_text(column.type):
            return [None] * len(column)
        return [None if data is None else data.decode("utf-8", "replace") for data in as_binary(column).to_pylist()]


def _holds_text(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "null")
    return any(getattr(types, f"is_{test}")(kind) for test in tests)


def as_binary(column: Any) -> Any:
    """Return a column of strings as one of bytes (strings are checked when they are decoded)."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column if column.type == pa.large_binary() else column.cast(pa.large_binary())


def cut_batches(batches: Iterable[Any], field: str, piece_bytes: int, wanted: Callable[[int], bool]) -> Iterator[Piece]:
    """Cut a stream of record batches (only the columns to keep) after every `piece_bytes` of text.

    Yields:
        Pieces whose payload is the number of their first row and an Arrow stream of their rows.
    """
    import pyarrow.compute as pc

    number = row = held_bytes = held_rows = 0
    held: list[Any] = []
    for batch in batches:
        lengths = pc.fill_null(pc.binary_length(as_binary(batch.column(field))), 0)
        ends = np.cumsum(np.asarray(lengths), dtype=np.int64)
        first = 0
        while first < batch.num_rows:
            # A full piece waits for the next row, to know whether it is the last.
            if held_bytes >= piece_bytes:
                if wanted(number):
                    yield Piece(number, (row, write_stream(held)))
                number, row, held, held_bytes, held_rows = number + 1, row + held_rows, [], 0, 0
            before = int(ends[first - 1]) if first else 0
            end = min(int(np.searchsorted(ends, before + piece_bytes - held_bytes)) + 1, batch.num_rows)
            if wanted(number):
                held.append(batch.slice(first, end - first))
            held_bytes += int(ends[end - 1]) - before
            held_rows += end - first
            first = end
    yield Piece(number, (row, write_stream(held)) if wanted(number) and held else None)


def write_stream(batches: list[Any]) -> bytes:
    """Return record batches in Arrow's stream format."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def read_stream(data: bytes) -> Any:
    """Return the table that `write_stream` wrote."""
    import pyarrow as pa

    return pa.ipc.open_stream(data).read_all()
