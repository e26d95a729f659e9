"""What every source yields, and what the pipeline asks of a source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

from electra_ds.errors import DataError


class Document(NamedTuple):
    """One text and where it is from."""

    text: str
    source: str = ""
    """Corpus, site or package."""
    language: str = ""
    """Language code, empty if unknown."""
    origin: str = ""
    """Name of the input file or data set, without its folder (a moved corpus gives the same bytes)."""


class Source(ABC):
    """One input, read from beginning to end in an order that depends on nothing but the input."""

    name: str
    """For messages."""
    size: int = 0
    """Bytes as stored, for the progress bar; 0 if unknown."""
    position: int = 0
    """Of these bytes, how many have been read."""
    dropped: dict[str, int]
    """Why: documents that this source itself left out in the last pass."""

    def __init__(self) -> None:
        self.dropped = {}

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """Yield the documents.

        Raises:
            DataError: the input is empty, cut short, corrupt or lacks the text; names file and line or row.
        """

    def identity(self) -> dict[str, Any]:
        """Return what tells this input from another of the same name, cheaply: for files their size."""
        return {"name": self.name, "bytes": self.size}


def text_of(value: Any, field: str, where: str) -> str:
    """Return a field's text.

    Raises:
        DataError: it is missing or not a string.
    """
    if not isinstance(value, str):
        found = "missing or null" if value is None else f"a {type(value).__name__}"
        raise DataError(
            f"{where}: the text field '{field}' is {found}; expected a string (--text_field names the field)"
        )
    return value


def valid_unicode(text: str) -> str:
    """Replace lone surrogates, which JSON can spell and UTF-8 cannot, by U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
