"""Data sets of Hugging Face `datasets`: by name from the hub, streamed from it, or saved by save_to_disk."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_prep.config import CorpusConfig, PrepConfig
from data_prep.sources.base import Document, Piece, Source, all_pieces
from data_prep.sources.tables import ROWS_AT_ONCE, RowReader, cut_batches, read_stream
from electra_ds.errors import DataError, UserError

SAVED_MARKS = ("dataset_dict.json", "state.json")
"""Files that tell a folder written by ``save_to_disk``."""


def is_saved_dataset(path: str) -> bool:
    """Tell whether a folder was written by ``save_to_disk``."""
    return any((Path(path) / name).is_file() for name in SAVED_MARKS)


class _RowsSource(Source):
    """Rows of one or several splits, in order; pieces are ranges of rows."""

    def __init__(self, name: str, splits: list[Any], corpus: CorpusConfig, config: PrepConfig) -> None:
        super().__init__()
        self.name = name
        self._rows = RowReader.of(name, Path(name).name, corpus, config)
        for split in splits:
            self._rows.columns(split.features.arrow_schema)
        # A copy for another process takes the paths of the tables along, not the rows.
        self._splits = [split.with_format("arrow") for split in splits]
        self.size = sum(split.data.nbytes for split in splits)

    def pieces(self, piece_bytes: int, wanted: Callable[[int], bool] = all_pieces) -> Iterator[Piece]:
        """See `Source.pieces`; the payload is the number of a split, a first and an end row."""
        self.position = 0
        ranges = []
        for number, split in enumerate(self._splits):
            parts = max(1, min(len(split), -(-split.data.nbytes // piece_bytes)))
            bounds = [len(split) * step // parts for step in range(parts + 1)]
            ranges += [(number, first, end) for first, end in itertools.pairwise(bounds)]
        for number, payload in enumerate(ranges):
            self.position = self.size * (number + 1) // len(ranges)
            if wanted(number) or number == len(ranges) - 1:
                yield Piece(number, payload)

    def documents(self, piece: Piece, dropped: Counter[str]) -> Iterator[Document]:
        """See `Source.documents`."""
        number, first, end = piece.payload
        split = self._splits[number]
        columns = self._rows.columns(split.features.arrow_schema)
        split = split.select_columns(columns)
        for start in range(first, end, ROWS_AT_ONCE):
            yield from self._rows.documents(split[start : min(start + ROWS_AT_ONCE, end)], start, dropped)

    def identity(self) -> dict[str, Any]:
        """Return the name and the number of rows."""
        return {"name": self.name, "rows": sum(len(split) for split in self._splits)}

    def version(self) -> str:
        """Return `datasets`' own fingerprints."""
        return " ".join(split._fingerprint for split in self._splits)


class SavedSource(_RowsSource):
    """A folder written by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` (all its splits)."""

    def __init__(self, path: str, corpus: CorpusConfig, config: PrepConfig) -> None:
        """`path`: the folder, or its URL.

        Raises:
            DataError: it cannot be loaded, or has no column of text.
        """
        import datasets

        path = path.rstrip("/")
        try:
            loaded = datasets.load_from_disk(path)
        except Exception as error:
            raise DataError(f"{path}: `datasets` cannot load this folder ({error}); save it again") from error
        splits = list(loaded.values()) if isinstance(loaded, datasets.DatasetDict) else [loaded]
        super().__init__(path, splits, corpus, config)


class HubSource(_RowsSource):
    """``hf:NAME``, ``hf:NAME:CONFIG``, ``hf:NAME@SPLIT``; the split is ``train`` if none is named."""

    def __init__(self, rest: str, corpus: CorpusConfig, config: PrepConfig) -> None:
        """`rest`: what follows ``hf:``.

        Raises:
            UserError: there is no such data set, or it cannot be reached.
            DataError: it has no column of text.
        """
        super().__init__(rest, [load("hf", rest, streaming=False)], corpus, config)


class HubStreamSource(Source):
    """``hf-stream:NAME...``: as `HubSource`, read from the hub row by row without keeping it on this machine."""

    streamed = True

    def __init__(self, rest: str, corpus: CorpusConfig, config: PrepConfig) -> None:
        """`rest`: what follows ``hf-stream:``.

        Raises:
            UserError: it is no name.
        """
        super().__init__()
        self.name = rest
        parse_name("hf-stream", rest)
        self._rows = RowReader.of(rest, Path(rest).name, corpus, config)

    def pieces(self, piece_bytes: int, wanted: Callable[[int], bool] = all_pieces) -> Iterator[Piece]:
        """See `Source.pieces`; the payload are the rows."""
        yield from cut_batches(self._batches(), self._rows.field, piece_bytes, wanted)

    def documents(self, piece: Piece, dropped: Counter[str]) -> Iterator[Document]:
        """See `Source.documents`."""
        if piece.payload is not None:
            row, data = piece.payload
            yield from self._rows.documents(read_stream(data), row, dropped)

    def identity(self) -> dict[str, Any]:
        """Return the name: how many rows there are shows at the end."""
        return {"name": self.name}

    def _batches(self) -> Iterator[Any]:
        stream = load("hf-stream", self.name, streaming=True)
        try:
            for table in stream.with_format("arrow").iter(ROWS_AT_ONCE):
                yield from table.select(self._rows.columns(table.schema)).to_batches()
        except UserError:
            raise
        except Exception as error:
            raise DataError(
                f"hf-stream:{self.name}: `datasets` cannot read on ({type(error).__name__}: {error}); "
                "run the same command again, or use hf: to download it first"
            ) from error


def parse_name(prefix: str, rest: str) -> tuple[str, str | None, str]:
    """Return name, configuration and split of ``NAME[:CONFIG][@SPLIT]``.

    Raises:
        UserError: it is not of that form.
    """
    match = re.fullmatch(r"([^:@]+)(?::([^@]+))?(?:@(.+))?", rest)
    # This builder of `datasets` unpickles files.
    if not match or match[1] == "pandas":
        raise UserError(f"inputs: '{prefix}:{rest}' is not of the form {prefix}:NAME[:CONFIG][@SPLIT]")
    return match[1], match[2], match[3] or "train"


def load(prefix: str, rest: str, streaming: bool) -> Any:
    """Open a data set of the hub by what follows ``hf:`` or ``hf-stream:``.

    Raises:
        UserError: it is not there, or cannot be reached.
    """
    import datasets

    name, configuration, split = parse_name(prefix, rest)
    try:
        return datasets.load_dataset(name, configuration, split=split, streaming=streaming)
    except Exception as error:
        raise UserError(
            f"inputs: '{prefix}:{rest}' cannot be loaded by `datasets` ({error}); "
            "check name, configuration and split, and that this machine reaches the hub or has it cached"
        ) from error
