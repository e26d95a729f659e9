"""JSON lines: one object per line, its text in one field."""

from __future__ import annotations

import json
from collections.abc import Iterator

from data_prep.config import PrepConfig
from data_prep.sources.base import Document, text_of
from data_prep.sources.files import FileSource
from electra_ds.errors import DataError


class JsonLinesSource(FileSource):
    """A document per line; `source` and `language` (or `lang`) are taken from the object where it has them."""

    def __init__(self, path: str, config: PrepConfig) -> None:
        """`path`: an existing .jsonl file, perhaps compressed."""
        super().__init__(path)
        self._config = config

    def documents(self) -> Iterator[Document]:
        """Yield the documents; blank lines are passed over."""
        config = self._config
        for number, line in self.lines():
            if not line.strip():
                continue
            where = f"{self.path}:{number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not JSON ({error}); expected one JSON object per line") from error
            if not isinstance(value, dict):
                raise DataError(f"{where}: a {type(value).__name__}; expected one JSON object per line")
            if config.text_field not in value:
                fields = ", ".join(map(str, value)) or "none"
                raise DataError(
                    f"{where}: no field '{config.text_field}' (its fields: {fields}); "
                    "name the text's field by --text_field"
                )
            yield Document(
                text_of(value[config.text_field], config.text_field, where),
                _label(value, ("source",), config.source),
                _label(value, ("language", "lang"), config.language),
                self.origin,
            )


def _label(value: dict[str, object], names: tuple[str, ...], default: str) -> str:
    return next((found for name in names if isinstance(found := value.get(name), str)), default)
