"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.config import PrepConfig
from data_prep.sources.base import Document, Source, text_of
from electra_ds.errors import DataError

LABELS = ("source", "language", "lang")


class ParquetSource(Source):
    """A document per row; only the columns that are needed are read."""

    def __init__(self, path: str, config: PrepConfig) -> None:
        """`path`: an existing .parquet file."""
        super().__init__()
        self.path = self.name = path
        self.size = Path(path).stat().st_size
        self._config = config

    def documents(self) -> Iterator[Document]:
        """Yield the rows in order."""
        import pyarrow
        import pyarrow.parquet

        if self.size == 0:
            raise DataError(f"{self.path}: is empty (0 bytes); remove it from the inputs or replace it")
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                names = file.schema_arrow.names
                if self._config.text_field not in names:
                    raise DataError(
                        f"{self.path}: no column '{self._config.text_field}' (its columns: {', '.join(names)}); "
                        "name the text's column by --text_field"
                    )
                columns = [self._config.text_field, *(name for name in LABELS if name in names)]
                rows, total = 0, max(file.metadata.num_rows, 1)
                for batch in file.iter_batches(1024, columns=columns):
                    for row in batch.to_pylist():
                        yield document_of_row(row, rows, self.path, Path(self.path).name, self._config)
                        rows += 1
                    self.position = self.size * rows // total
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: corrupt or cut short ({error}); fetch or write the file again") from error
        self.position = self.size


def document_of_row(row: dict[str, object], number: int, name: str, origin: str, config: PrepConfig) -> Document:
    """Make a document of a table's row; `number` counts from 0."""
    text = text_of(row[config.text_field], config.text_field, f"{name} row {number}")
    source, language = row.get("source"), row.get("language") or row.get("lang")
    return Document(
        text,
        source if isinstance(source, str) else config.source,
        language if isinstance(language, str) else config.language,
        origin,
    )
