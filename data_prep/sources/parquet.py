"""Parquet files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from data_prep.config import CorpusConfig, PrepConfig
from data_prep.sources.base import Document, Piece, all_pieces
from data_prep.sources.files import FileSource
from data_prep.sources.stored import StoredFile
from data_prep.sources.tables import ROWS_AT_ONCE, RowReader
from electra_ds.errors import DataError

MOST_ROWS = 1_000_000
"""A piece has no more."""


class ParquetSource(FileSource):
    """A document per row; only the columns that are needed are read.

    A piece is one or several row groups, or some rows of a large one.
    """

    def __init__(self, file: StoredFile, corpus: CorpusConfig, config: PrepConfig) -> None:
        """`file`: a .parquet file."""
        super().__init__(file, corpus, config)
        self._rows = RowReader.of(self.name, self.origin, corpus, config)
        self._group: _GroupReader | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind."""
        return {**self.__dict__, "_group": None}

    def pieces(self, piece_bytes: int, wanted: Callable[[int], bool] = all_pieces) -> Iterator[Piece]:
        """See `Source.pieces`; the payload is a list of row group, first row, end row, and the first one's number."""
        self.position = 0
        with self._reading():
            self._group = None
            file = self._open()
            metadata, columns = file.metadata, self._rows.columns(file.schema_arrow)
            file.close()
        number = row = held_bytes = 0
        held: list[tuple[int, int, int, int]] = []
        for group in range(metadata.num_row_groups):
            about = metadata.row_group(group)
            size = next(
                column.total_uncompressed_size
                for column in map(about.column, range(about.num_columns))
                if column.path_in_schema == columns[0]
            )
            if held and held_bytes + size > piece_bytes:
                if wanted(number):
                    yield Piece(number, held)
                number, held, held_bytes = number + 1, [], 0
            parts = max(1, min(about.num_rows, max(-(-size // piece_bytes), -(-about.num_rows // MOST_ROWS))))
            for part in range(parts):
                first, end = (about.num_rows * step // parts for step in (part, part + 1))
                held.append((group, first, end, row + first))
                if part < parts - 1:
                    if wanted(number):
                        yield Piece(number, held)
                    number, held = number + 1, []
            held_bytes += size // parts
            row += about.num_rows
            self.position = self.size * row // max(metadata.num_rows, 1)
        self.position = self.size
        yield Piece(number, held)

    def documents(self, piece: Piece, dropped: Counter[str]) -> Iterator[Document]:
        """See `Source.documents`."""
        for group, first, end, row in piece.payload:
            # The next piece is often the rest of this row group: it is not decoded twice.
            if self._group is None or self._group.group != group or self._group.row > first:
                with self._reading():
                    file = self._open()
                    self._group = _GroupReader(file, group, self._rows.columns(file.schema_arrow))
            while first < end:
                with self._reading():
                    batch = self._group.take(first, end)
                yield from self._rows.documents(batch, row, dropped)
                first += batch.num_rows
                row += batch.num_rows

    def _open(self) -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(self.file.for_arrow())

    @contextmanager
    def _reading(self) -> Iterator[None]:
        import pyarrow

        try:
            yield
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{self.name}: corrupt or cut short ({error}); fetch or write the file again") from error


class _GroupReader:
    """Reads a row group from its beginning; holds one batch."""

    def __init__(self, file: Any, group: int, columns: list[str]) -> None:
        self.group = group
        self.row = 0
        """Row of the group that `_batch` begins with."""
        self._batches = file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns)
        self._batch: Any = None

    def take(self, first: int, end: int) -> Any:
        """Return rows from `first` on, one at least and none of `end` or later; `first` never goes back."""
        while self._batch is None or self.row + self._batch.num_rows <= first:
            self.row += self._batch.num_rows if self._batch is not None else 0
            self._batch = next(self._batches, None)
            if self._batch is None:
                raise OSError(f"row group {self.group} has fewer rows than the file's metadata says")
        return self._batch.slice(first - self.row, end - first)
