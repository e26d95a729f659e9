"""Arrow IPC files, in the file format (also called Feather) and the stream format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from data_prep.config import CorpusConfig, PrepConfig
from data_prep.sources.base import Document, Piece, all_pieces
from data_prep.sources.files import FileSource
from data_prep.sources.stored import LocalFile, StoredFile
from data_prep.sources.tables import RowReader, cut_batches, read_stream
from electra_ds.errors import DataError

_END = b"\xff\xff\xff\xff\0\0\0\0"
"""End of a stream; pyarrow also takes the end of the file for it, which may be a file cut between two batches."""


class ArrowSource(FileSource):
    """A document per row. The file format is cut between or inside record batches, the stream format as it is read."""

    def __init__(self, file: StoredFile, corpus: CorpusConfig, config: PrepConfig) -> None:
        """`file`: an .arrow or .feather file."""
        super().__init__(file, corpus, config)
        self._rows = RowReader.of(self.name, self.origin, corpus, config)
        self.streamed = file.read(0, min(6, self.size)) != b"ARROW1"

    def pieces(self, piece_bytes: int, wanted: Callable[[int], bool] = all_pieces) -> Iterator[Piece]:
        """See `Source.pieces`.

        The payload is a first and an end record batch, and which of how many equal parts of each; for the stream
        format the rows.
        """
        self.position = 0
        if self.streamed:
            yield from cut_batches(self._stream(), self._rows.field, piece_bytes, wanted)
            self.position = self.size
            return
        with self._open(self.file) as reader:
            self._rows.columns(reader.schema)
            batches = reader.num_record_batches
        # How large a batch is shows only when it is read; here they count as equally large.
        at_once = max(1, batches * piece_bytes // self.size)
        parts = max(1, -(-self.size // (max(batches, 1) * piece_bytes)))
        count = max(1, -(-batches // at_once) * parts)
        for number in range(count):
            first, part = number // parts * at_once, number % parts
            self.position = self.size * (number + 1) // count
            if wanted(number) or number == count - 1:
                yield Piece(number, (first, min(first + at_once, batches), part, parts))

    def documents(self, piece: Piece, dropped: Counter[str]) -> Iterator[Document]:
        """See `Source.documents`."""
        if piece.payload is None:
            return
        if self.streamed:
            row, data = piece.payload
            yield from self._rows.documents(read_stream(data), row, dropped)
            return
        first, end, part, parts = piece.payload
        with self._open(self.file) as reader:
            for number in range(first, end):
                with self._reading():
                    batch = reader.get_batch(number)
                start, stop = (batch.num_rows * step // parts for step in (part, part + 1))
                rows = self._rows._replace(name=f"{self.name} record batch {number}")
                yield from rows.documents(batch.slice(start, stop - start), start, dropped)

    @contextmanager
    def _open(self, file: StoredFile) -> Iterator[Any]:
        import pyarrow as pa

        with self._reading():
            source = pa.memory_map(file.name) if isinstance(file, LocalFile) else pa.PythonFile(file.open(), mode="r")
            reader = pa.ipc.open_file(source)
            if self._rows.field in reader.schema.names:
                names = self._rows.columns(reader.schema)
                included = [reader.schema.names.index(name) for name in names]
                reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=included))
        with source:
            yield reader

    def _stream(self) -> Iterator[Any]:
        import pyarrow as pa

        end = self.file.read(max(self.size - len(_END), 0), self.size)
        if end != _END:
            raise DataError(f"{self.name}: cut short (no end-of-stream mark); fetch or write the file again")
        with self.file.open() as file:
            with self._reading():
                reader = pa.ipc.open_stream(pa.PythonFile(file, mode="r"))
            columns = self._rows.columns(reader.schema)
            while True:
                with self._reading():
                    try:
                        batch = reader.read_next_batch()
                    except StopIteration:
                        return
                self.position = min(file.tell(), self.size)
                yield batch.select(columns)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.name}: corrupt or cut short ({error}); fetch or write the file again") from error
