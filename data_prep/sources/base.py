"""What every source yields, and what the pipeline asks of a source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
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
    translation: Document | None = None
    """The same in another language, where the source has pairs."""


class Piece(NamedTuple):
    """A part of a source that one process reads by itself: the unit of work, and of a restart."""

    number: int
    """Counted from 0 within the source."""
    payload: Any
    """What `Source.documents` needs; small or bytes, and picklable."""
    dropped: dict[str, int] = {}  # noqa: RUF012 (never changed)
    """Why: documents that were left out on the way to this piece's payload."""


def all_pieces(number: int) -> bool:
    """Want every piece."""
    return True


class Source(ABC):
    """One input: a file or a data set, cut into pieces whose borders depend on the input and a size alone.

    Picklable: a worker process gets a copy and calls `documents` on it.
    """

    name: str
    """For messages."""
    size: int = 0
    """Bytes as stored, for the progress bar and for sharing work among ranks; 0 if unknown."""
    position: int = 0
    """Of these bytes, how many `pieces` has passed."""
    streamed: bool = False
    """Pieces are found by reading from the beginning: their payload is content, and finding the last reads all."""
    pairs: bool = False
    """Every document has a translation."""

    @abstractmethod
    def pieces(self, piece_bytes: int, wanted: Callable[[int], bool] = all_pieces) -> Iterator[Piece]:
        """Yield the pieces whose numbers are wanted, in order, each of about `piece_bytes` of text.

        The last piece of every source is yielded even if it is not wanted (with payload None if that is cheaper), so
        that the caller learns how many there are. A source without a document yields one empty piece.

        Raises:
            DataError: the input is empty, cut short or corrupt; names file and place.
        """

    @abstractmethod
    def documents(self, piece: Piece, dropped: Counter[str]) -> Iterator[Document]:
        """Yield the documents of a piece; count in `dropped`, by reason, those that the source leaves out itself.

        Raises:
            DataError: the content is not what it should be, or lacks the text; names file and line or row.
        """

    def identity(self) -> dict[str, Any]:
        """Return what the manifest records of this input: what stays the same when it is moved or copied."""
        return {"name": self.name, "bytes": self.size}

    def version(self) -> str:
        """Return what changes when the input is written anew in place (a time of change, an etag), if it has that."""
        return ""


def text_of(value: Any, field: str, where: str, option: str = "--text_field") -> str:
    """Return a field's text; `option` names it on the command line.

    Raises:
        DataError: it is missing or not a string.
    """
    if not isinstance(value, str):
        found = "missing or null" if value is None else f"a {type(value).__name__}"
        raise DataError(f"{where}: the text field '{field}' is {found}; expected a string ({option} names the field)")
    return value


def valid_unicode(text: str) -> str:
    """Replace lone surrogates, which JSON can spell and UTF-8 cannot, by U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
