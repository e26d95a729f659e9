"""What sources that are one file have in common: its bytes, in order or by range, decompressed or as stored."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator

from data_prep.config import CorpusConfig, PrepConfig
from data_prep.sources.base import Piece, Source, all_pieces
from data_prep.sources.compression import COMPRESSIONS, decompressed
from data_prep.sources.cut import LINES, Border, Cutter, cut_range, cut_stream, range_start
from data_prep.sources.stored import StoredFile
from electra_ds.errors import DataError


class FileSource(Source):
    """A source that is one file, here or behind a URL, perhaps compressed."""

    def __init__(self, file: StoredFile, corpus: CorpusConfig, config: PrepConfig) -> None:
        """`file`: what to read; `corpus`: with nothing unset; `config`: the preparation.

        Raises:
            DataError: the file has no bytes.
        """
        super().__init__()
        if file.size == 0:
            raise DataError(f"{file.name}: is empty (0 bytes); remove it from the inputs or replace it")
        self.file = file
        self.name = file.name
        self.origin = file.base_name
        self.size = file.size
        self.corpus = corpus
        self.limit = config.max_document_bytes
        self.replace_errors = config.encoding_errors == "replace"
        self.compression = os.path.splitext(file.base_name)[1].lower()
        self.compressed = self.compression in COMPRESSIONS

    def version(self) -> str:
        """Return the file's etag or time of change."""
        return self.file.written

    def stream(self) -> Iterator[bytes]:
        """Yield the content from the beginning, decompressed, and keep `position`.

        Raises:
            DataError: cut short, corrupt or not to be read.
        """
        try:
            with self.file.open() as file:
                for chunk in decompressed(file, self.compression):
                    self.position = file.tell()
                    yield chunk
        except EOFError as error:
            raise DataError(f"{self.name}: corrupt or cut short ({error}); fetch or write the file again") from error
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read ({error})") from error
        self.position = self.size

    def decode(self, data: bytes, offset: int, encoding: str = "") -> str:
        """Decode text that stands at an offset of the decompressed file, of the corpus's encoding if none is given.

        Raises:
            DataError: it is not of that encoding, and the configuration does not say to replace.
        """
        encoding = encoding or self.corpus.encoding or "utf-8"
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            if self.replace_errors:
                return data.decode(encoding, "replace")
            raise DataError(
                f"{self.place(offset + error.start)}: not {encoding.upper()} ({error.reason}: "
                f"0x{data[error.start : error.start + 1].hex()}); name the encoding by --encoding, convert the file "
                "with iconv, or give --encoding_errors replace"
            ) from error

    def place(self, offset: int) -> str:
        """Return file and line of an offset of the decompressed file, for a message: reads all that is before it."""
        lines, left = 1, offset
        for chunk in self.stream() if self.compressed else self.file.chunks(0, offset):
            lines += chunk.count(b"\n", 0, left)
            left -= len(chunk)
            if left <= 0:
                break
        return f"{self.name}:{lines}"


class CutFileSource(FileSource):
    """A file that is cut at borders that show in its bytes.

    A plain one is cut by byte ranges, which the processes read themselves; a compressed one by whoever decompresses.
    """

    border: Border = LINES

    def __init__(self, file: StoredFile, corpus: CorpusConfig, config: PrepConfig) -> None:
        """See `FileSource`."""
        super().__init__(file, corpus, config)
        self.streamed = self.compressed

    def pieces(self, piece_bytes: int, wanted: Callable[[int], bool] = all_pieces) -> Iterator[Piece]:
        """See `Source.pieces`; the payload is a range of offsets, or an offset and what stands there."""
        self.position = 0
        if self.streamed:
            yield from cut_stream(Cutter(self.stream(), self.border, self.limit), piece_bytes, wanted)
            return
        count = -(-self.size // piece_bytes)
        for number in range(count):
            end = min((number + 1) * piece_bytes, self.size)
            self.position = end
            if wanted(number) or number == count - 1:
                yield Piece(number, (number * piece_bytes, end))

    def content(self, piece: Piece, dropped: Counter[str]) -> tuple[int, bytes]:
        """Return a piece's offset in the decompressed file and its bytes; count the documents too long to be read."""
        if piece.payload is None:
            return 0, b""
        start, data = piece.payload
        if not self.streamed:
            end = data
            chunks = self.file.chunks(range_start(self.border, start), end)
            start, (data, too_long) = cut_range(chunks, self.border, self.limit, start, end)
            if too_long:
                dropped["too long"] += too_long
        mark = self.mark_length(data) if start == 0 else 0
        return start + mark, data[mark:]

    def mark_length(self, data: bytes | bytearray) -> int:
        """Return the bytes of a byte order mark at a file's start."""
        try:
            mark = "\ufeff".encode(self.corpus.encoding or "utf-8")
        except UnicodeEncodeError:
            return 0
        return len(mark) if data.startswith(mark) else 0
