"""Data sets of Hugging Face `datasets`: by name from the hub, or a folder that save_to_disk wrote."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.config import PrepConfig
from data_prep.sources.base import Document, Source
from data_prep.sources.parquet import LABELS, document_of_row
from electra_ds.errors import DataError, UserError


def is_saved_dataset(path: str) -> bool:
    """Tell whether a folder was written by ``save_to_disk``."""
    return any((Path(path) / name).is_file() for name in ("dataset_dict.json", "state.json"))


class _DatasetSource(Source):
    """Rows of one or several splits, in order."""

    def __init__(self, config: PrepConfig) -> None:
        super().__init__()
        self._config = config
        self._splits: list[Any] | None = None

    @abstractmethod
    def _load(self) -> list[Any]:
        """Open the splits."""

    def _loaded(self) -> list[Any]:
        if self._splits is None:
            self._splits = self._load()
            for split in self._splits:
                if self._config.text_field not in split.column_names:
                    raise DataError(
                        f"{self.name}: no column '{self._config.text_field}' (its columns: "
                        f"{', '.join(split.column_names)}); name the text's column by --text_field"
                    )
            self.size = sum(split.data.nbytes for split in self._splits)
        return self._splits

    def documents(self) -> Iterator[Document]:
        """Yield the rows of each split."""
        for split in self._loaded():
            columns = [self._config.text_field, *(name for name in LABELS if name in split.column_names)]
            share = split.data.nbytes / max(len(split), 1)
            for number, row in enumerate(split.select_columns(columns)):
                yield document_of_row(row, number, self.name, Path(self.name).name, self._config)
                self.position += int(share)

    def identity(self) -> dict[str, Any]:
        """Return the name and `datasets`' own fingerprints."""
        return {"name": self.name, "rows": sum(len(split) for split in self._loaded())}


class SavedSource(_DatasetSource):
    """A folder written by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` (all its splits)."""

    def __init__(self, path: str, config: PrepConfig) -> None:
        """`path`: the folder."""
        super().__init__(config)
        self.name = path.rstrip("/")

    def _load(self) -> list[Any]:
        import datasets

        try:
            loaded = datasets.load_from_disk(self.name)
        except Exception as error:
            raise DataError(f"{self.name}: `datasets` cannot load this folder ({error}); save it again") from error
        return list(loaded.values()) if isinstance(loaded, datasets.DatasetDict) else [loaded]


class HubSource(_DatasetSource):
    """``hf:NAME``, ``hf:NAME:CONFIG``, ``hf:NAME@SPLIT``; the split is ``train`` if none is named."""

    def __init__(self, rest: str, config: PrepConfig) -> None:
        """`rest`: what follows ``hf:``."""
        super().__init__(config)
        match = re.fullmatch(r"([^:@]+)(?::([^@]+))?(?:@(.+))?", rest)
        if not match:
            raise UserError(f"inputs: 'hf:{rest}' is not of the form hf:NAME[:CONFIG][@SPLIT]")
        self._dataset, self._configuration, self._split = match[1], match[2], match[3] or "train"
        self.name = rest

    def _load(self) -> list[Any]:
        import datasets

        try:
            return [datasets.load_dataset(self._dataset, self._configuration, split=self._split)]
        except Exception as error:
            raise UserError(
                f"inputs: 'hf:{self.name}' cannot be loaded by `datasets` ({error}); "
                "check name, configuration and split, and that this machine reaches the hub or has it cached"
            ) from error
