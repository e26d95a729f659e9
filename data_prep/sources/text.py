"""Plain text files."""

from __future__ import annotations

from collections.abc import Iterator

from data_prep.config import PrepConfig
from data_prep.sources.base import Document
from data_prep.sources.files import FileSource


class TextSource(FileSource):
    """A document per file, per line, or per paragraph (lines between blank lines)."""

    def __init__(self, path: str, config: PrepConfig) -> None:
        """`path`: an existing .txt file, perhaps compressed."""
        super().__init__(path)
        self._config = config

    def documents(self) -> Iterator[Document]:
        """Yield the documents of the file."""
        for text in self._texts():
            yield Document(text, self._config.source, self._config.language, self.origin)

    def _texts(self) -> Iterator[str]:
        if self._config.text_documents == "line":
            yield from (text for _, text in self.lines())
            return
        ends_at_blank = self._config.text_documents == "paragraph"
        lines: list[str] = []
        for _, text in self.lines():
            if ends_at_blank and not text.strip():
                if lines:
                    yield "\n".join(lines)
                lines = []
            else:
                lines.append(text)
        if lines:
            yield "\n".join(lines)
