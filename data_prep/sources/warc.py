"""Web archives: WET files (text) and WARC files (pages as they were fetched), of Common Crawl and others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from data_prep.sources.base import Document, Piece, all_pieces, valid_unicode
from data_prep.sources.files import FileSource
from electra_ds.errors import DataError

_LONGEST_HEADER = 1 << 16
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r?\n", re.IGNORECASE)
_KIND = re.compile(rb"\nwarc-type:[ \t]*([a-z]+)", re.IGNORECASE)
_LINE_ENDS = re.compile(rb"[\r\n]*")
_HTML = ("text/html", "application/xhtml+xml")


class WarcSource(FileSource):
    """A document per record of text (``conversion``, in WET files) or per page (``response`` with HTML or plain text).

    Of HTML the main text is taken. Dropped and counted: records of other kinds, answers other than 200 OK, answers that
    are neither HTML nor plain text, that cannot be unpacked, or have no text. `language` is the first that
    the record was identified as (``WARC-Identified-Content-Language``), if any.
    """

    streamed = True

    def pieces(self, piece_bytes: int, wanted: Callable[[int], bool] = all_pieces) -> Iterator[Piece]:
        """See `Source.pieces`; the payload is a list of records: offset and bytes."""
        self.position = 0
        records = _Records(self.stream(), self.name)
        number, last = 0, False
        while not last:
            keep, start = wanted(number), records.offset
            held: list[tuple[int, bytes]] = []
            dropped: Counter[str] = Counter()
            while True:
                kind, size = records.next_header()
                if size > self.limit:
                    dropped["too long" if kind in ("conversion", "response") else f"WARC {kind}"] += 1
                record = records.offset, records.take(size, keep and size <= self.limit)
                if record[1]:
                    held.append(record)
                last = records.at_end()
                if last or records.offset >= start + piece_bytes:
                    break
            if keep or last:
                yield Piece(number, held if keep else None, dict(dropped))
            number += 1

    def documents(self, piece: Piece, dropped: Counter[str]) -> Iterator[Document]:
        """See `Source.documents`."""
        from fastwarc.warc import WarcRecord, WarcRecordType

        for offset, data in piece.payload or ():
            try:
                record = WarcRecord.from_bytes(data)
            except Exception as error:
                raise DataError(
                    f"{self.place(offset)}: no valid WARC record ({error}); fetch the file again"
                ) from error
            if record.record_type == WarcRecordType.conversion:
                content = record.reader.read()
                text = self.decode(content, offset + len(data) - len(content), "utf-8")
            elif record.record_type == WarcRecordType.response:
                text = self._text_of_response(record, dropped)
            else:
                dropped[f"WARC {(record.headers.get('WARC-Type') or '').lower()}"] += 1
                continue
            if text:
                languages = record.headers.get("WARC-Identified-Content-Language") or self.corpus.language or ""
                language = languages.partition(",")[0].strip()
                yield Document(valid_unicode(text), self.corpus.source or "", language, self.origin)

    def place(self, offset: int) -> str:
        """Return file and byte: lines mean nothing here."""
        return f"{self.name}: byte {offset:,} of the decompressed file"

    def _text_of_response(self, record: Any, dropped: Counter[str]) -> str:
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.encoding import bytes_to_str, detect_encoding

        try:
            record.parse_http(auto_decode="all")
            status, kind = record.http_headers.status_code, (record.http_content_type or "").lower()
            # Unpacked, a page of a few kilobytes may be gigabytes.
            content = record.reader.read(self.limit + 1) if status == 200 else b""
        except Exception:  # whatever a server once sent: compressed badly, no HTTP at all
            dropped["unreadable web page"] += 1
            return ""
        if status != 200:
            dropped["web page not 200 OK"] += 1
            return ""
        if len(content) > self.limit:
            dropped["too long"] += 1
            return ""
        if kind not in (*_HTML, "text/plain"):
            dropped["neither HTML nor text"] += 1
            return ""
        text = bytes_to_str(content, record.http_charset or detect_encoding(content) or "utf-8", "replace")
        if kind in _HTML:
            text = extract_plain_text(text, main_content=True, alt_texts=False, comments=False).strip()
        if not text:
            dropped["web page without text"] += 1
        return str(text)


class _Records:
    """Finds the borders of WARC records in a decompressed stream; holds one chunk, or what is kept of a record."""

    def __init__(self, chunks: Iterator[bytes], name: str) -> None:
        self.offset = 0
        self._chunks, self._name = chunks, name
        self._buffer = bytearray()

    def next_header(self) -> tuple[str, int]:
        """Return the type of the record that begins here, and its size with its header."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0 and len(self._buffer) < _LONGEST_HEADER and self._more():
            pass
        header = bytes(self._buffer[: end + 4])
        kind, length = _KIND.search(header), _LENGTH.search(header)
        if end < 0 or not header.startswith(b"WARC/") or length is None:
            raise DataError(
                f"{self._name}: no WARC record at byte {self.offset:,} of the decompressed file, or one with a header "
                "that is cut short; fetch the file again"
            )
        return kind[1].decode().lower() if kind else "", len(header) + int(length[1])

    def take(self, size: int, keep: bool) -> bytes:
        """Pass over bytes; return them if they are to be kept."""
        self.offset += size
        parts = bytearray()
        while True:
            part = min(size, len(self._buffer))
            if keep:
                parts += self._buffer[:part]
            del self._buffer[:part]
            size -= part
            if not size:
                return bytes(parts)
            if not self._more():
                raise DataError(
                    f"{self._name}: cut short in the record that ends at byte {self.offset:,}; fetch it again"
                )

    def at_end(self) -> bool:
        """Pass over the empty lines after a record; tell whether nothing follows."""
        while True:
            empty = _LINE_ENDS.match(self._buffer)
            count = empty.end() if empty else 0
            self.offset += count
            del self._buffer[:count]
            if self._buffer:
                return False
            if not self._more():
                return True

    def _more(self) -> bool:
        chunk = next(self._chunks, b"")
        self._buffer += chunk
        return bool(chunk)
